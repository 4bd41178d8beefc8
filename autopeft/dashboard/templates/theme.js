// Light and dark: as the system says, until the reader says otherwise.
const THEMES = ["system", "light", "dark"];
let theme = "system";
try {
  theme = localStorage.getItem("autopeft-theme") || "system";
} catch { /* a file or a frame may have no storage */ }
if (!THEMES.includes(theme)) theme = "system";

function applyTheme() {
  document.documentElement.dataset.theme = theme;
  $("theme").textContent = theme === "system" ? "Theme: as the system" : `Theme: ${theme}`;
}

function watchTheme(changed) {
  applyTheme();
  $("theme").addEventListener("click", () => {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    try {
      localStorage.setItem("autopeft-theme", theme);
    } catch { /* likewise */ }
    applyTheme();
    changed();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", changed);
}

const colour = (name) =>
  getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
