// Light, dark, or as the system has it. It runs before the page is drawn, so that nothing flashes.
(() => {
  "use strict";
  const KEY = "sluicegate-theme";
  const root = document.documentElement;

  function stored() {
    try {
      return localStorage.getItem(KEY) ?? "auto";
    } catch {
      // Storage may be forbidden; then every page begins as the system has it.
      return "auto";
    }
  }

  function show(theme) {
    if (theme === "light" || theme === "dark") root.dataset.theme = theme;
    else delete root.dataset.theme;
  }

  show(stored());
  document.addEventListener("DOMContentLoaded", () => {
    const choice = document.getElementById("theme");
    choice.value = root.dataset.theme ?? "auto";
    choice.addEventListener("change", () => {
      show(choice.value);
      try {
        localStorage.setItem(KEY, choice.value);
      } catch {
        // It holds for this page alone.
      }
    });
  });
})();
