// What Gradio cannot be told: text as it was written, and images to drop, choose and enlarge.
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
})();
