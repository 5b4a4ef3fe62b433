// Runs when the sidebar's list is on the page: draws what sidebar.py wrote, and tells it what was done.
const OPEN = { text: "open_text", vision: "open_vision" }, LEAVE = { text: "leave_text", vision: "leave_vision" };
const drawer = document.getElementById("history"), toggle = drawer.querySelector(".toggle-button");
const narrow = matchMedia("(max-width: 899px)");
let renaming = false, removed = null, reopened = null;

// -- what the page shows ---------------------------------------------------------------------------------------------

const shown = () => {
  const address = new URLSearchParams(location.search);
  // The address follows a moment later.
  const tab = document.querySelector("#tabs [role=tab][aria-selected=true]")?.dataset.tabId || address.get("tab") || "chat";
  return { kind: { chat: "text", images: "vision" }[tab], text: address.get("c"), vision: address.get("i") };
};
const entry = (id) => element.querySelector(`li[data-id="${CSS.escape(id)}"]`);
const mark = () => {
  const page = shown();
  for (const link of element.querySelectorAll("a.open")) {
    if (link.parentElement.dataset.id === page[page.kind]) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
};
let lost = "";
const draw = () => {
  if (renaming) return; // drawn when that is done
  const active = document.activeElement;
  const focused = element.contains(active) ? active.dataset.key : active === document.body && lost;
  const unfolded = element.querySelector("li.unfolded")?.dataset.id;
  element.innerHTML = props.value || "";
  mark();
  if (unfolded) entry(unfolded)?.classList.add("unfolded");
  // What had the focus has it again; where it is gone, the way back has it.
  const next = focused && (element.querySelector(`[data-key="${CSS.escape(focused)}"]`) || element.querySelector(".gone button"));
  if (next) next.focus();
  lost = focused && !next ? focused : ""; // what was drawn late, from before, does not have it: the next will
  toggle.setAttribute("aria-label", element.firstElementChild?.dataset.toggle || "");
  if (reopened && entry(reopened.id)) {
    open(reopened.kind, reopened.id);
    reopened = null;
  }
};

// -- what is done on it ----------------------------------------------------------------------------------------------

const toggled = () => toggle.setAttribute("aria-expanded", drawer.classList.contains("open"));
const fold = () => { if (narrow.matches && drawer.classList.contains("open")) toggle.click(); };
const open = (kind, id) => {
  window.pickedConversation = id;
  trigger(OPEN[kind]);
  fold();
};
const rename = (item) => {
  const link = item.querySelector("a.open"), input = document.createElement("input");
  const done = (keep) => {
    if (!renaming) return;
    renaming = false;
    const title = input.value.trim(), focus = document.activeElement === input;
    draw();
    const drawn = entry(item.dataset.id)?.querySelector("a.open");
    if (focus) drawn?.focus();
    if (!keep || !title || title === item.dataset.title) return;
    if (drawn) drawn.querySelector(".title").textContent = title;
    trigger("act", { what: "rename", id: item.dataset.id, title });
  };
  renaming = true;
  input.value = item.dataset.title;
  input.setAttribute("aria-label", item.querySelector("[data-do=rename]").getAttribute("aria-label"));
  input.addEventListener("keydown", (event) => {
    event.stopPropagation();
    // Enter also ends the writing of a Chinese word.
    if (event.key === "Enter" && !event.isComposing) done(true);
    if (event.key === "Escape" && !event.isComposing) done(false);
  });
  input.addEventListener("blur", () => done(true));
  item.classList.add("renaming");
  link.after(input);
  input.select();
};
const act = (button, item) => {
  const what = button.dataset.do, { id, kind } = button.dataset.id ? button.dataset : item?.dataset || {};
  if (what === "more") return trigger("more");
  if (what === "rename") return rename(item);
  if (what === "unfold") return item.classList.toggle("unfolded");
  if (what === "restore" && removed?.id === id) reopened = removed;
  trigger("act", { what, id });
  if (what !== "delete") return;
  removed = shown()[kind] === id ? { id, kind } : null;
  if (removed) trigger(LEAVE[kind]);
};
element.addEventListener("click", (event) => {
  const item = event.target.closest("li"), button = event.target.closest("[data-do]");
  if (button) return act(button, item);
  if (!event.target.closest("a.open") || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  open(item.dataset.kind, item.dataset.id);
});
element.addEventListener("keydown", (event) => {
  const links = [...element.querySelectorAll("a.open")], at = links.indexOf(event.target);
  const next = { ArrowDown: links[at + 1], ArrowUp: links[at - 1] }[event.key];
  if (at < 0) return;
  if (next) next.focus();
  else if (event.key === "F2") rename(event.target.parentElement);
  else if (event.key === "Delete") act(event.target.parentElement.querySelector(".delete"), event.target.parentElement);
  else return;
  event.preventDefault();
});

// -- the page around it ----------------------------------------------------------------------------------------------

document.addEventListener("new-conversation", () => {
  const { kind } = shown();
  if (kind) trigger(LEAVE[kind]);
  else open("text", "");
  fold();
  document.querySelector(kind === "vision" ? "#image-prompt textarea" : "#prompt textarea")?.focus();
});
document.addEventListener("address", mark);

const OVERTAKEN = { text: "overtaken_text", vision: "overtaken_vision" }, running = { text: 0, vision: 0 }, mixed = {};
document.addEventListener("follow-begins", ({ detail: kind }) => { if (++running[kind] > 1) mixed[kind] = true; });
document.addEventListener("follow-ends", ({ detail: kind }) => {
  if (--running[kind] || !mixed[kind]) return;
  mixed[kind] = false;
  trigger(OVERTAKEN[kind]);
});
let listing = 0;
for (const event of ["follow-begins", "follow-ends"]) {
  document.addEventListener(event, () => {
    clearTimeout(listing);
    listing = setTimeout(() => trigger("changed"), 50); // several at once are one to Gradio
  });
}
document.addEventListener("pointerdown", (event) => { if (!drawer.contains(event.target)) fold(); });
drawer.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || !narrow.matches || !drawer.classList.contains("open")) return;
  event.stopPropagation();
  fold();
  toggle.focus();
});
new MutationObserver(toggled).observe(drawer, { attributeFilter: ["class"] });
watch("value", draw);
draw();
toggled();
