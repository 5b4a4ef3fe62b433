// What Gradio cannot be told: the page's language, text as it was written, images to drop, choose and enlarge, the line
// under each message, and coming back after a lost connection.
(() => {
  // Gradio translates its labels by navigator.language; the server reads the same choice from a cookie.
  const fixed = LANG;
  const wanted = fixed === "auto" ? (localStorage.getItem(COOKIE) || navigator.language || "en") : fixed;
  const lang = wanted.toLowerCase().startsWith("zh") ? "zh-CN" : "en";
  Object.defineProperty(navigator, "language", { get: () => lang, configurable: true });
  Object.defineProperty(navigator, "languages", { get: () => [lang], configurable: true });
  document.cookie = COOKIE + "=" + lang + "; path=/; SameSite=Lax";
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone || "";
  document.cookie = ZONE + "=" + encodeURIComponent(zone) + "; path=/; SameSite=Lax";
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
  const feet = (element, props, trigger, watch, prefix) => {
    let lines = new Map();
    const take = () => {
      const given = document.createElement("template");
      given.innerHTML = props.value ?? "";
      lines = new Map([...given.content.children].map((one) => [Number(one.dataset.at), one.innerHTML]));
      place();
    };
    const place = () => {
      for (const [n, row] of document.querySelectorAll(`#${prefix}chat .message-wrap > .message-row`).entries()) {
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
      const button = event.target.closest?.(`#${prefix}chat .foot [data-do], #${prefix}notice [data-do]`);
      if (button) trigger("click", { do: button.dataset.do, row: button.dataset.row });
    });
    const look = () => document.visibilityState === "visible" && trigger("submit", {});
    for (const kind of ["focus", "online", "pageshow"]) window.addEventListener(kind, look);
    document.addEventListener("visibilitychange", look);
  };
  window.desk = { feet };

  // Gradio's page comes back by itself, by a reload, from a stream that ends with an error. So does here one that ends
  // without a word, or has fallen silent, as behind a proxy or on a phone that slept. What stands in a box is kept.
  const BEAT = 15000; // the server says something this often
  let lost = false, heard = Infinity, cut = () => {};
  const lose = () => {
    if (lost) return;
    lost = true;
    const note = document.createElement("div");
    note.id = "connection";
    note.role = "alert";
    note.textContent = LOST[lang];
    document.body.append(note);
  };
  const watched = ({ body, status, headers }) => {
    const reader = body.getReader(), text = new TextDecoder();
    let tail = "";
    return new Response(new ReadableStream({
      async start(controller) {
        const fail = (error) => {
          heard = Infinity;
          if (error.name !== "AbortError") lose();
          controller.error(error);
        };
        cut = () => { reader.cancel().catch(() => {}); fail(new TypeError("the stream is dead")); cut = () => {}; };
        try {
          for (;;) {
            heard = Date.now();
            const { done, value } = await reader.read();
            if (done) break;
            tail = (tail + text.decode(value, { stream: true })).slice(-200);
            controller.enqueue(value);
          }
          if (tail.includes("close_stream")) { heard = Infinity; controller.close(); }
          else fail(new TypeError("the stream was cut"));
        } catch (error) { fail(error); }
      },
      cancel: (reason) => { heard = Infinity; return reader.cancel(reason); },
    }), { status, headers });
  };
  const fetched = window.fetch.bind(window);
  window.fetch = async (input, init) => {
    const url = String(input?.url ?? input);
    try {
      const response = await fetched(input, init);
      return url.includes("/queue/data") && response.ok ? watched(response) : response;
    } catch (error) {
      if (url.includes("/queue/") && error.name !== "AbortError") lose();
      throw error;
    }
  };
  const check = (patience) => { if (Date.now() - heard > patience) cut(); };
  setInterval(check, BEAT, 3 * BEAT);
  for (const kind of ["online", "pageshow"]) window.addEventListener(kind, () => check(1.5 * BEAT));
  document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && check(1.5 * BEAT));
  const boxes = ["#prompt textarea", "#image-prompt textarea"];
  window.addEventListener("pagehide", () => {
    const drafts = boxes.map((one) => document.querySelector(one)?.value ?? "");
    if (lost && drafts.some(Boolean)) sessionStorage.setItem("drafts", JSON.stringify(drafts));
  });
  const drafts = JSON.parse(sessionStorage.getItem("drafts") ?? "[]");
  sessionStorage.removeItem("drafts");
  const restore = () => {
    boxes.forEach((one, n) => {
      const box = drafts[n] && document.querySelector(one);
      if (!box) return;
      box.value = drafts[n];
      box.dispatchEvent(new Event("input", { bubbles: true }));
      drafts[n] = "";
    });
    if (drafts.some(Boolean)) requestAnimationFrame(restore);
  };
  restore();
})();
