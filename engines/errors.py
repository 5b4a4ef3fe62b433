"""Every failure that is raised on purpose. Errors carry facts; interface/messages.py words them.

AppError
  InputError              the person can mend it by asking otherwise
    PromptTooLong           tokens, limit
    TooManyImages           images, limit
    SettingOutOfRange       name, value, low, high
    StillAnswering          (a conversation has one answer at a time)
    ConversationMoved       (another page has changed the conversation)
    ImageRejected           name, reason (gone | empty | too_many_bytes | too_large | too_thin | not_an_image |
                            foreign | damaged), and the reason's numbers
    ImportRejected          name, reason (gone | empty | too_large | damaged | unsafe_name | not_json | wrong_value |
                            not_conversations | too_new | unknown_key | role | image | image_missing | remote_image),
                            where, and the reason's own facts
    MirrorInvalid           address
    NameInvalid             name (neither a repository's id nor a folder)
    ImageNotFetched         url, reason (offline | malformed | userinfo | port | unresolved | not_public | unreachable |
                            redirects | status | type | too_many_bytes | slow), and the reason's facts
  ModelError              something is wrong with a model's files
    ModelUnknown            model, nearest
    ModelKnown              model (it is in the list already)
    ModelRefused            name, cause (the code of another error), facts (that error's)
    ModelMissing            model, tried (nothing could be had from any source)
    DownloadFailed          source, kind (offline | refused | stalled | cut | not_found | server | tool), detail
    DownloadCancelled       model
    ModelCorrupt            file, problem
    ModelUnsupported        file, problem
    UnsafeModel             file
  CapacityError           the machine cannot do it now
    NotEnoughMemory         plan
    OutOfMemory             model, stage
    DiskFull                needed, free, folder
    Busy                    waiting, limit
    BusyWithYours           waiting, limit: as many as one person or program may have in the queue
    ShareFailed             reason (offline | helper_missing | helper_changed | helper_refused | refused | slow |
                            ended | unknown), and the reason's facts; the app goes on
  StorageError            what people said cannot be kept
    HistoryUnavailable      detail
    NotSaved                kind (full | io | readonly | busy | changed); nothing is refused for it
    StoreDamaged            file, folder; nothing is refused for it
    StoreTooNew             file, version, known
    DataInUse               folder, address ("" while the other is starting)
  ServerError             a server elsewhere did not answer as it should: server, reason (no_key | unconnected | key |
                          unnamed | model | busy | rejected | broken | malformed | cut | silent), and the reason's
                          facts; unconnected has why (slow | proxy | unresolved | tls | refused | unreachable)
  EngineError             the engine itself failed; its worker is replaced
    EngineDied              model, signal, exit_code, stage
    EngineHung              model, stage, seconds
    EngineFailed            model, kind
Cancelled               not an error: nobody wants the rest of the answer
"""

from __future__ import annotations

from typing import Any


class AppError(Exception):
    """`code` names the sentence that words it, `facts` fill the sentence in. Facts must survive pickling."""

    code = "internal"

    def __init__(self, **facts: Any) -> None:
        super().__init__(f"{self.code}: {facts}" if facts else self.code)
        self.facts = facts

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.facts)


def _rebuild(cls: type[AppError], facts: dict[str, Any]) -> AppError:
    return cls(**facts)


class InputError(AppError):
    code = "input"


class PromptTooLong(InputError):
    code = "prompt_too_long"


class TooManyImages(InputError):
    code = "too_many_images"


class SettingOutOfRange(InputError):
    code = "setting_out_of_range"


class StillAnswering(InputError):
    code = "still_answering"


class ConversationMoved(InputError):
    code = "conversation_moved"


class ImageRejected(InputError):
    code = "image_rejected"


class ImportRejected(InputError):
    code = "import_rejected"


class MirrorInvalid(InputError):
    code = "mirror_invalid"


class NameInvalid(InputError):
    code = "name_invalid"


class ImageNotFetched(InputError):
    code = "image_not_fetched"


class ModelError(AppError):
    code = "model"


class ModelUnknown(ModelError):
    code = "model_unknown"


class ModelKnown(ModelError):
    code = "model_known"


class ModelRefused(ModelError):
    code = "model_refused"


class ModelMissing(ModelError):
    code = "model_missing"


class DownloadFailed(ModelError):
    code = "download_failed"


class DownloadCancelled(ModelError):
    code = "download_cancelled"


class ModelCorrupt(ModelError):
    code = "model_corrupt"


class ModelUnsupported(ModelError):
    code = "model_unsupported"


class UnsafeModel(ModelError):
    code = "unsafe_model"


class CapacityError(AppError):
    code = "capacity"


class NotEnoughMemory(CapacityError):
    code = "not_enough_memory"


class OutOfMemory(CapacityError):
    code = "out_of_memory"


class DiskFull(CapacityError):
    code = "disk_full"


class Busy(CapacityError):
    code = "busy"


class BusyWithYours(CapacityError):
    code = "busy_yours"


class ShareFailed(CapacityError):
    code = "share_failed"


class StorageError(AppError):
    code = "storage"


class HistoryUnavailable(StorageError):
    code = "history_unavailable"


class NotSaved(StorageError):
    code = "not_saved"


class StoreDamaged(StorageError):
    code = "store_damaged"


class StoreTooNew(StorageError):
    code = "store_too_new"


class DataInUse(StorageError):
    code = "data_in_use"


class ServerError(AppError):
    code = "server"


class EngineError(AppError):
    code = "engine"


class EngineDied(EngineError):
    code = "engine_died"


class EngineHung(EngineError):
    code = "engine_hung"


class EngineFailed(EngineError):
    code = "engine_failed"


class Cancelled(BaseException):
    """Raised by a sink to end a generation; a BaseException, so that no `except Exception` on the way eats it."""
