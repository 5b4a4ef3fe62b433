// The keyboard, and what a screen reader is told. The shortcuts are listed by keys.py.
(() => {
  const words = WORDS;
  const seen = (selector) => [...document.querySelectorAll(selector)].filter((one) => one.offsetParent);
  const first = (selector) => seen(selector)[0];
  const boxes = ":is(#prompt, #image-prompt) textarea";

  // -- an input method's Enter chooses a word; Safari's is heard when the composition has ended, and was pressed before --
  let composing = false, ended = 0;
  document.addEventListener("compositionstart", () => { composing = true; }, true);
  document.addEventListener("compositionend", (event) => { composing = false; ended = event.timeStamp; }, true);
  const composed = (event) => event.isComposing || event.keyCode === 229 || composing || event.timeStamp <= ended;
  for (const kind of ["keydown", "keypress"]) {
    window.addEventListener(kind, (event) => composed(event) && event.stopImmediatePropagation(), true);
  }

  // -- shortcuts ------------------------------------------------------------------------------------------------------
  const dialog = document.createElement("dialog");
  dialog.id = "shortcuts";
  dialog.setAttribute("aria-labelledby", "shortcuts-title");
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog || event.target.closest("button")) dialog.close();
  });
  const shortcuts = () => {
    if (dialog.open) return dialog.close();
    document.querySelector("#preferences:popover-open")?.hidePopover();
    dialog.innerHTML = words[desk.lang()].shortcuts;
    document.body.append(dialog);
    dialog.showModal();
  };
  const renew = () => {
    const button = first(":is(#new-chat, #image-new-chat)");
    button?.click();
    first(boxes)?.focus();
    return button;
  };
  const search = () => {
    const drawer = document.querySelector("#history .sidebar, #history.sidebar");
    if (drawer && !drawer.classList.contains("open")) drawer.querySelector(".toggle-button")?.click();
    const field = document.querySelector("#history input[type=search], #history textarea, #history input");
    field?.focus();
    return field;
  };
  const edit = () => {
    const pencil = seen(":is(#chat, #image-chat) .message-buttons-right button:has(.feather-edit-2)").at(-1);
    pencil?.click();
    if (pencil) requestAnimationFrame(() => first(":is(#chat, #image-chat) textarea")?.focus());
    return pencil;
  };
  const stop = (event) => {
    const open = dialog.open || document.querySelector("dialog[open], :popover-open");
    const button = first(":is(#stop, #image-stop)");
    if (open || !button || event.target.closest?.(":is(#chat, #image-chat) textarea")) return false;
    button.click();
    return true;
  };
  const isEmpty = (box) => box.matches?.(boxes) && !box.value;
  document.addEventListener("keydown", (event) => {
    const { key, shiftKey, altKey } = event, command = (event.ctrlKey || event.metaKey) && !altKey;
    const plain = !command && !shiftKey && !altKey;
    const done = command && !shiftKey && key === "/" ? (shortcuts(), true)
      : command && shiftKey && key.toLowerCase() === "o" ? renew()
      : command && !shiftKey && key.toLowerCase() === "k" ? search()
      : plain && key === "Escape" ? stop(event)
      : plain && key === "ArrowUp" && isEmpty(event.target) && edit();
    if (done) event.preventDefault();
  });
  desk.shortcuts = shortcuts;

  // -- the way past the header, and what is announced -----------------------------------------------------------------
  const skip = document.createElement("button");
  skip.id = "skip";
  skip.addEventListener("click", () => (first(boxes) ?? document.querySelector("[role=tabpanel]"))?.focus());
  const announcer = document.createElement("div");
  announcer.id = "announcer";
  announcer.setAttribute("role", "status");
  const header = document.createElement("header");
  const heading = document.createElement("h1");
  heading.id = "app-name";
  const name = () => {
    skip.textContent = words[desk.lang()].skip;
    heading.textContent = words[desk.lang()].name;
  };
  header.append(skip, heading, announcer);
  name();
  document.addEventListener("desk:language", name);

  // The line about the answer counts seconds: it is read when its words change; at the end, what the answer took. A
  // growing answer is not read at all.
  let said = "";
  const announce = () => {
    const doing = first(":is(#status, #image-status) .status")?.textContent.trim();
    const line = doing || seen(":is(#chat, #image-chat) .usage").at(-1)?.textContent.trim() || "";
    const meant = line.replace(/[\d.,]+/g, "");
    if (meant === said) return;
    said = meant;
    announcer.textContent = line;
  };
  const quieten = () => {
    for (const log of document.querySelectorAll("[role=log][aria-live=polite]")) log.setAttribute("aria-live", "off");
    for (const list of document.querySelectorAll(".examples[role=list]")) list.setAttribute("role", "group"); // of buttons
  };
  const attach = () => {
    const button = document.querySelector("#preferences-button"), card = document.querySelector("#preferences");
    if (button && card && !card.popover) {
      card.popover = "auto";
      button.popoverTargetElement = card;
    }
    if (!header.isConnected && document.body) document.body.prepend(header);
  };
  let due = 0;  // a growing answer changes the page many times a second
  const look = () => { due = 0; attach(); quieten(); announce(); };
  new MutationObserver(() => { due ||= setTimeout(look, 150); })
    .observe(document.documentElement, { childList: true, subtree: true });
})();
