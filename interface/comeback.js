// A page that has lost its connection, or a part of which does not come, says so, and loads itself anew once the server
// answers. Stands before all that the page loads: whatever fails there would leave it blank, without a word.
(() => {
  const words = COMEBACK;
  const MINUTE = 60000, LONGEST = 5;
  const tell = (what) => {
    const note = document.createElement("div");
    note.id = "connection";
    note.role = "alert";
    note.textContent = words[desk.lang()][what];
    document.body.append(note);
  };
  const back = () => fetch("manifest.json", { cache: "no-store" })
    .then((answer) => answer.ok ? location.reload() : Promise.reject()).catch(() => setTimeout(back, 1000));
  const comeback = window.comeback = {
    due: false,
    start(what, wait = 1000) {
      if (comeback.due) return;
      comeback.due = true;
      if (document.body) tell(what);
      else document.addEventListener("DOMContentLoaded", () => tell(what));
      setTimeout(back, wait);
    },
  };

  // What something holds back for good is asked for less and less often.
  const missed = () => {
    if (comeback.due) return;
    const [before, at] = JSON.parse(sessionStorage.getItem("missed") ?? "[-1, 0]");
    const times = Date.now() - at < MINUTE ? Math.min(before + 1, LONGEST) : 0;
    sessionStorage.setItem("missed", JSON.stringify([times, Date.now()]));
    comeback.start("missing", 1000 * 2 ** times);
  };
  window.addEventListener("vite:preloadError", missed);
  window.addEventListener("error", ({ target }) => {
    const part = target instanceof HTMLElement && target.matches("script[type=module], link[rel=stylesheet]");
    if (part && (target.src || target.href).startsWith(location.origin)) missed();
  }, true);
})();
