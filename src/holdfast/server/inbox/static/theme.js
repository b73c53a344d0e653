// Light or dark: as the system says, until somebody chooses.

const KEPT = "holdfast.theme";
const system = matchMedia("(prefers-color-scheme: dark)");

export const isDark = () => (document.documentElement.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";

function show(chosen) {
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
  else delete document.documentElement.dataset.theme;
}

/** As it was chosen last time. */
export const restore = () => show(localStorage.getItem(KEPT));

/** The other one. What the system says anyway is not kept. */
export function turn() {
  const next = isDark() ? "light" : "dark";
  if ((next === "dark") === system.matches) localStorage.removeItem(KEPT);
  else localStorage.setItem(KEPT, next);
  show(localStorage.getItem(KEPT));
}
