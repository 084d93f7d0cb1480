// Keyboard, theme, and names for screen readers. Everything else on the page is Gradio's own.
window.sdDemo = (() => {
  const shown = (selector) =>
    [...document.querySelectorAll(selector)].find((e) => e.offsetParent !== null);
  const press = (selector) => {
    const button = shown(selector);
    if (button && !button.disabled) button.click();
    return Boolean(button);
  };

  document.addEventListener("keydown", (event) => {
    if (event.isComposing) return;
    const inPrompt = event.target.closest?.(".field-prompt, .field-negative_prompt");
    const isGenerate = event.key === "Enter" && (event.ctrlKey || event.metaKey || (inPrompt && !event.shiftKey));
    if (isGenerate) {
      event.preventDefault();
      event.stopPropagation();
      // A number that is still being typed counts: leaving its field is what tells Gradio.
      const active = document.activeElement;
      const isNumber = active?.type === "number";
      if (isNumber) active.blur();
      setTimeout(() => press("button.generate"), isNumber ? 120 : 0);
    } else if (event.key === "Escape") {
      // Where a picture fills the screen or a list is open, Escape leaves that and stops nothing.
      if (document.querySelector(".block.fullscreen") || event.target.matches?.("input[aria-expanded='true']")) return;
      const cancel = shown("button.cancel");
      if (cancel && !cancel.disabled) cancel.click();
    }
  }, true);

  const KEY = "sd-demo-theme";
  const apply = (theme) => document.body.classList.toggle("dark", theme === "dark");
  const remembered = localStorage.getItem(KEY);
  if (remembered && !new URLSearchParams(location.search).has("__theme")) {
    const whenReady = () => apply(remembered);
    document.readyState === "loading" ? document.addEventListener("DOMContentLoaded", whenReady) : whenReady();
    window.addEventListener("load", () => setTimeout(whenReady, 0));
  }
  // What Gradio has no name for: a button that is a symbol, and the two pictures of a before/after slider.
  const name = () => {
    document.getElementById("theme")?.setAttribute("aria-label", "Light or dark");
    for (const area of document.querySelectorAll(".area-show")) {
      const prompt = area.querySelector("[data-prompt]")?.dataset.prompt;
      const [before, after] = area.querySelectorAll("[id$='-compare'] img");
      if (!prompt || !after) continue;
      before.alt = "before";
      after.alt = prompt;
    }
  };
  let naming = 0; // a picture in the making changes the page many times a second
  new MutationObserver(() => {
    naming ||= setTimeout(() => { naming = 0; name(); }, 300);
  }).observe(document.documentElement, { childList: true, subtree: true });
  return {
    toggleTheme() {
      const theme = document.body.classList.contains("dark") ? "light" : "dark";
      apply(theme);
      localStorage.setItem(KEY, theme);
    },
  };
})();
