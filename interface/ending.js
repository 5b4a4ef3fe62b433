// A conversation stays at its end while it grows, unless one has gone up to read. The Chatbot's own way there waits for
// 300 ms, and is lost for good where more than 100 px come before it.
desk.ending = () => {
  const NEAR = 100;
  let scroller, wrap, questions = 0, staying = true, last = 0;
  const toEnd = () => {
    // Not from the title of what there is to try.
    if (staying && !scroller.querySelector(".placeholder-content")) scroller.scrollTop = scroller.scrollHeight;
  };
  const sizes = new ResizeObserver(toEnd);
  const heed = () => {
    if (scroller.scrollTop + scroller.offsetHeight > scroller.scrollHeight - NEAR) staying = true;
    else if (scroller.scrollTop < last) staying = false;
    last = scroller.scrollTop;
  };
  return {
    stay: () => { staying = true; },
    leave: () => { staying = false; },
    // The messages as they are drawn now; who asks is taken to the answer.
    see(drawn, isEarlier) {
      const asked = drawn?.querySelectorAll(".user-row").length ?? 0;
      if (asked > questions && !isEarlier) staying = true;
      questions = asked;
      if (!drawn || drawn === wrap) return;
      sizes.disconnect();
      scroller?.removeEventListener("scroll", heed);
      [scroller, wrap] = [drawn.closest(".bubble-wrap"), drawn];
      scroller.addEventListener("scroll", heed, { passive: true });
      sizes.observe(scroller);
      sizes.observe(wrap);
    },
  };
};
