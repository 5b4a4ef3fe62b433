// What Gradio cannot be told: text as it was written, images to drop, choose and enlarge, the line under each message.
(() => {
  // The characters that render.show writes as entities.
  const clean = (text) => text.replace(/&#000(33|36|38|60);/g, (_, code) => String.fromCharCode(code));
  if (navigator.clipboard) {
    const write = navigator.clipboard.writeText.bind(navigator.clipboard);
    navigator.clipboard.writeText = (text) => write(clean(text));
  }
  document.addEventListener("click", () => requestAnimationFrame(() => {
    for (const box of document.querySelectorAll(":is(#chat, #image-chat) textarea")) {
      const text = clean(box.value);
      if (text !== box.value) {
        box.value = text;
        box.dispatchEvent(new Event("input", { bubbles: true }));
      }
    }
  }));

  // With each word of an answer Svelte sets the text direction of every message to what it is, and the browser then
  // styles the whole conversation anew.
  const dir = Object.getOwnPropertyDescriptor(HTMLElement.prototype, "dir");
  Object.defineProperty(HTMLElement.prototype, "dir", {
    ...dir,
    set(value) { if (dir.get.call(this) !== value) dir.set.call(this, value); },
  });

  // What is asked before the page knows which conversation it shows would begin another, out of sight: it waits.
  for (const [kind, prefix] of [["text", ""], ["vision", "image-"]]) {
    const asking = ["keydown", "click"];
    let waits = false;
    const hold = (event) => {
      const { type, target, key, shiftKey } = event;
      const asks = type === "click" ? target.closest?.(`#${prefix}send`)
        : key === "Enter" && !shiftKey && target.matches?.(`#${prefix}prompt textarea`);
      if (!asks) return;
      event.preventDefault();
      event.stopImmediatePropagation();
      waits = true;
    };
    const begin = ({ detail }) => {
      if (detail !== kind) return;
      document.removeEventListener("follow-begins", begin);
      for (const one of asking) document.removeEventListener(one, hold, true);
      if (waits) document.querySelector(`#${prefix}send`).click();
    };
    for (const one of asking) document.addEventListener(one, hold, true);
    document.addEventListener("follow-begins", begin);
  }

  // An image is enlarged on the page; without this script its link opens it.
  const enlarged = document.createElement("dialog");
  enlarged.id = "enlarged";
  enlarged.addEventListener("click", () => enlarged.close());
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.("a.picture");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    const image = new Image();
    image.src = link.href;
    image.alt = link.title;
    enlarged.replaceChildren(image);
    document.body.append(enlarged);
    enlarged.showModal();
  });

  // Files dropped anywhere on the image tab go into its box, and nowhere does the browser leave the page for one.
  const box = () => [...document.querySelectorAll("#image-prompt input[type=file]")].find((one) => one.closest("#image-tab").offsetParent);
  for (const kind of ["dragover", "drop"]) {
    document.addEventListener(kind, (event) => {
      if (!event.dataTransfer?.types.includes("Files") || event.defaultPrevented) return;
      event.preventDefault();
      if (kind === "drop" && box()) {
        box().files = event.dataTransfer.files;
        box().dispatchEvent(new Event("change", { bubbles: true }));
      }
    });
  }
  // The chooser starts with images (a phone offers its camera); the server judges what was chosen.
  document.addEventListener("pointerdown", () => box()?.setAttribute("accept", "image/*"), true);
  if (!navigator.mediaDevices) document.documentElement.classList.add("no-camera");

  // The line under each message comes from the server as HTML, and is put beside Gradio's own buttons here: so it is
  // no part of the text that is copied or edited. Its buttons, and a page that comes back into sight, call the server.
  const feet = (element, props, trigger, watch, prefix, settled) => {
    const end = desk.ending();
    let lines = new Map(), rowsBefore = 0, opened = "";
    const above = document.createElement("div");
    above.className = "earlier";
    const take = () => {
      const given = document.createElement("template");
      given.innerHTML = props.value ?? "";
      above.replaceChildren(...(given.content.querySelector("[data-at=earlier]")?.children ?? []));
      lines = new Map([...given.content.children].map((one) => [Number(one.dataset.at), one.innerHTML]));
      place();
    };
    const place = () => {
      const rows = document.querySelectorAll(`#${prefix}chat .message-wrap > .message-row`);
      const wrap = rows[0]?.parentElement;
      if (wrap && above.nextElementSibling !== wrap) wrap.before(above);
      const isEarlier = rowsBefore && rows.length > rowsBefore;
      end.see(wrap, isEarlier);
      if (isEarlier) {
        rows[rows.length - rowsBefore].scrollIntoView(); // what was the first before stays where it is
        rowsBefore = 0;
      }
      for (const [n, row] of rows.entries()) {
        const beside = row.nextElementSibling?.matches(".message-buttons") ? row.nextElementSibling : row.querySelector(".flex-wrap");
        const html = lines.get(n) ?? "";
        let foot = [row, beside].map((one) => one.querySelector(".foot")).find(Boolean);
        if (foot && foot.parentElement !== beside) beside.append(foot);
        if (!foot && html) {
          foot = document.createElement("div");
          foot.className = "foot";
          beside.append(foot);
        }
        if (!foot || foot.source === html) continue;
        const focused = [...foot.querySelectorAll("button")].indexOf(document.activeElement);
        foot.innerHTML = foot.source = html;
        foot.querySelectorAll("button")[focused]?.focus(); // who walks by the keyboard goes on walking
      }
    };
    new MutationObserver(place).observe(element.closest(".tabitem"), { childList: true, subtree: true });
    watch("value", take);
    take();
    document.addEventListener("click", (event) => {
      const button = event.target.closest?.(`#${prefix}chat :is(.foot, .earlier) [data-do], #${prefix}notice [data-do]`);
      if (button?.dataset.do === "earlier") {
        end.leave();
        rowsBefore = document.querySelectorAll(`#${prefix}chat .message-row`).length;
      }
      if (button) trigger("click", { do: button.dataset.do, row: button.dataset.row });
    });
    const isOurs = ({ detail: kind }) => (kind === "text") === (prefix === "");
    document.addEventListener("follow-begins", (event) => {
      if (!isOurs(event)) return;
      const id = new URL(location.href).searchParams.get(prefix ? "i" : "c");
      if (id !== opened) end.stay();
      opened = id;
    });
    let settling = 0;
    document.addEventListener("settled", (event) => {
      if (!isOurs(event)) return;
      clearTimeout(settling);
      settling = setTimeout(settled, 50);
    });
    const look = () => document.visibilityState === "visible" && trigger("submit", {});
    for (const kind of ["focus", "online", "pageshow"]) window.addEventListener(kind, look);
    document.addEventListener("visibilitychange", look);
  };
  desk.feet = feet;
})();
