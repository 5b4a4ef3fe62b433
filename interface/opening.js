// Stands in the page before Gradio's own script: language and colours, so that neither changes while the page loads.
(() => {
  const { fixed, cookie, zoneCookie, themeKey, localeModule, papers } = OPENING;
  const root = document.documentElement;
  const storage = {
    get: (key) => { try { return localStorage.getItem(key); } catch { return null; } },
    set: (key, value) => { try { localStorage.setItem(key, value); } catch { /* private: kept for this page */ } },
  };

  // -- language: Gradio words its labels by navigator.language, the server reads the same choice from a cookie --------
  const nearest = (tag) => (tag || "").toLowerCase().startsWith("zh") ? "zh" : "en";
  const browsers = navigator.language;
  let lang = nearest(fixed === "auto" ? storage.get(cookie) || browsers : fixed);
  const tag = () => lang === "zh" ? "zh-CN" : "en";
  const home = new URL(".", document.baseURI).pathname; // a proxy may serve other things beside
  const tell = () => {
    root.lang = tag();
    document.cookie = `${cookie}=${tag()}; path=${home}; SameSite=Lax`;
  };
  Object.defineProperty(navigator, "language", { get: tag, configurable: true });
  Object.defineProperty(navigator, "languages", { get: () => [tag()], configurable: true });
  tell();
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone || "";
  document.cookie = `${zoneCookie}=${encodeURIComponent(zone)}; path=${home}; SameSite=Lax`;

  // What does not word itself anew: a tab that was not opened yet, and a button that came and went. One that comes again
  // has its old words again, so the rows of buttons are watched from then on.
  const watched = new WeakSet();
  const watch = (row) => {
    if (!row || watched.has(row)) return;
    watched.add(row);
    new MutationObserver(nameAnew).observe(row, { childList: true });
  };
  const nameAnew = () => {
    const words = gradio_config.i18n_translations[lang];
    const named = (text) => words[/"key": ?"(\w+)"/.exec(text)?.[1]];
    for (const { props } of gradio_config.components.filter((one) => one.type === "button" && one.props.elem_id)) {
      const name = named(props.value), nodes = document.getElementById(props.elem_id)?.childNodes ?? [];
      const text = [...nodes].find((node) => node.nodeType === Node.TEXT_NODE && node.nodeValue.trim());
      if (name && text && text.nodeValue.trim() !== name) text.nodeValue = name;
      watch(text?.parentNode.parentNode);
    }
    for (const { props } of gradio_config.components.filter((one) => one.type === "tabitem")) {
      const name = named(props.label);
      for (const button of document.querySelectorAll(`button[data-tab-id="${props.id}"]`)) {
        if (name && button.firstChild && button.textContent !== name) button.firstChild.nodeValue = name;
      }
    }
  };
  const speak = async (wanted) => {
    lang = nearest(wanted);
    storage.set(cookie, lang);
    tell();
    const { changeLocale } = await import(new URL(localeModule, document.baseURI));
    await changeLocale(tag());
    nameAnew();
    document.dispatchEvent(new Event("desk:language"));
  };

  // -- theme: Gradio follows the system's; here that is what the reader has chosen ------------------------------------
  const DARK = "(prefers-color-scheme: dark)";
  const matchMedia = window.matchMedia.bind(window);
  const system = matchMedia(DARK);
  let theme = storage.get(themeKey) || "system";
  const dark = () => theme === "system" ? system.matches : theme === "dark";
  const chosen = Object.defineProperties(new EventTarget(), { matches: { get: dark }, media: { value: DARK } });
  window.matchMedia = (query) => query === DARK ? chosen : matchMedia(query);
  const colour = () => {
    root.classList.toggle("night", dark());
    document.querySelector("meta[name=theme-color]")?.setAttribute("content", papers[dark() ? 1 : 0]);
    chosen.dispatchEvent(new Event("change"));
  };
  const paint = (wanted) => {
    theme = wanted;
    storage.set(themeKey, theme);
    colour();
  };
  system.addEventListener("change", colour);
  colour();

  // Chosen on another of the app's pages: the cookie is the same, so the language has to be, too.
  window.addEventListener("storage", ({ key, newValue }) => {
    const group = { [cookie]: "language", [themeKey]: "theme" }[key];
    if (group && newValue) document.querySelector(`#${group} input[value="${newValue}"]`)?.click();
  });

  window.desk = { speak, paint, lang: () => lang, preferences: () => [lang, theme] };
})();
