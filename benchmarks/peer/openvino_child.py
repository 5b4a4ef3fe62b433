"""OpenVINO GenAI on the embedded model's own GGUF file; runs in an environment of its own (openvino_peer.py).

It lies in a folder of its own, because a script's folder is where its imports are looked for first.
Usage: python openvino_child.py GGUF STARTED TOKENS QUESTION. Prints one line of JSON; the speeds are OpenVINO's count.
"""

from __future__ import annotations

import json
import resource
import sys
import time

import openvino_genai

file, started, tokens, question = sys.argv[1:]
pipe = openvino_genai.LLMPipeline(file, "CPU")
ready = time.time() - float(started)
settings = openvino_genai.GenerationConfig()
settings.max_new_tokens = settings.min_new_tokens = int(tokens)
settings.ignore_eos, settings.do_sample = True, False
metrics = pipe.generate([f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"], settings).perf_metrics
found = {
    "load": ready,
    "first": metrics.get_ttft().mean / 1000,
    "rate": metrics.get_throughput().mean,
    "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
}
print(json.dumps(found))
