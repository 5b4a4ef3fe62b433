// Gradio's page comes back by itself, by a reload, from a stream that ends with an error. So does here one that ends
// without a word, or has fallen silent, as behind a proxy or on a phone that slept. What stands in a box is kept.
(() => {
  const BEAT = 15000; // the server says something this often
  const LEAVE = 3000; // so long the next page may take to answer, while this one is still there
  let heard = Infinity, left = -Infinity, cut = () => {};
  // Gradio's own reload does not come where only its timers had asked for something.
  const lose = () => comeback.start("lost");
  // Gradio ends its stream before the page is left, and takes that for a lost connection; a new one, for what happens
  // until then, finds the session gone. It hears of neither until it is plain that the page stays.
  const stays = () => {
    const still = left + LEAVE - Date.now();
    return still > 0 ? new Promise((go) => setTimeout(go, still)) : null;
  };
  const watched = ({ body, status, headers }) => {
    const reader = body.getReader(), text = new TextDecoder();
    let tail = "";
    return new Response(new ReadableStream({
      async start(controller) {
        const fail = async (error) => {
          heard = Infinity;
          if (error.name === "AbortError") await stays();
          else lose();
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
    if (url.includes("/queue/data")) await stays();
    try {
      const response = await fetched(input, init);
      // The session has ended: the way to the login is the same reload.
      if (url.includes("/queue/") && response.status === 401) { comeback.due = true; location.reload(); }
      return url.includes("/queue/data") && response.ok ? watched(response) : response;
    } catch (error) {
      if (error.name === "AbortError") await stays();
      else if (url.includes("/queue/")) lose();
      throw error;
    }
  };
  window.addEventListener("beforeunload", () => { left = Date.now(); });
  const check = (patience) => { if (Date.now() - heard > patience) cut(); };
  setInterval(check, BEAT, 3 * BEAT);
  for (const kind of ["online", "pageshow"]) window.addEventListener(kind, () => check(1.5 * BEAT));
  document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && check(1.5 * BEAT));
  const boxes = ["#prompt textarea", "#image-prompt textarea"];
  window.addEventListener("pagehide", () => {
    const drafts = boxes.map((one) => document.querySelector(one)?.value ?? "");
    if (comeback.due && drafts.some(Boolean)) sessionStorage.setItem("drafts", JSON.stringify(drafts));
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
