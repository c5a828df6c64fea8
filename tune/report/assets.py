"""What makes the report's page look and move: its style, and the script without which it can be read as well."""

import base64
import hashlib

STYLE = """
:root { color-scheme: light dark; --text: #222; --quiet: #666; --back: #fff; --line: #ddd;
        --box: #f5f5f3; --bad: #a3332b; --best: #eaf4e6; --link: #0b5cad; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e4e4e2; --quiet: #a5a5a0; --back: #17181a; --line: #3a3c40;
          --box: #222427; --bad: #ff8f83; --best: #203322; --link: #7db8f5; }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--text); background: var(--back);
       max-width: 1100px; margin: 1.5em auto; padding: 0 1em; overflow-wrap: anywhere; }
h1 { font-size: 1.6em; line-height: 1.25; margin: .4em 0; }
h2 { font-size: 1.25em; margin: 2em 0 .6em; border-bottom: 1px solid var(--line); }
h3 { font-size: 1em; margin: 1.6em 0 .2em; }
a { color: var(--link); }
nav a { margin-right: 1.1em; }
.quiet { color: var(--quiet); }
.failed { color: var(--bad); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; overflow-wrap: normal; }
th, td { padding: .2em .8em; text-align: right; border-bottom: 1px solid var(--line);
         font-variant-numeric: tabular-nums; white-space: nowrap; }
th { vertical-align: bottom; }
th.text, td.text { text-align: left; }
td.long { max-width: 14em; overflow: hidden; text-overflow: ellipsis; }
td.long:hover { white-space: normal; overflow-wrap: anywhere; }
tr.best td { background: var(--best); }
th button { all: unset; cursor: pointer; white-space: nowrap; }
th button:focus-visible { outline: 2px solid var(--link); }
th[aria-sort=ascending] button::after { content: " \\25b2"; }
th[aria-sort=descending] button::after { content: " \\25bc"; }
pre { background: var(--box); padding: .7em .9em; border-radius: 6px; white-space: pre-wrap;
      max-height: 24em; overflow: auto; margin: .5em 0; font-size: .9em; }
.copy { font: inherit; padding: .25em .9em; cursor: pointer; }
figure { margin: 0; overflow-x: auto; }
img { max-width: 100%; height: auto; display: block; border-radius: 6px; }
img.broad { min-width: 640px; }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .1em 1em; }
dt { color: var(--quiet); } dd { margin: 0; }
details { border-bottom: 1px solid var(--line); padding: .3em 0; }
summary { cursor: pointer; }
@media (max-width: 600px) { dl { grid-template-columns: minmax(0, 1fr); } dd { margin-bottom: .4em; } }
"""

SCRIPT = """
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      const value = row => row.cells[column].dataset.value;
      const order = (one, other) => {
        const [a, b] = [value(one), value(other)];
        if (a === "" || b === "") return (a === "") - (b === "");
        const sign = a !== b && !isNaN(a) && !isNaN(b) ? a - b : a.localeCompare(b);
        return down ? -sign : sign;
      };
      body.append(...[...body.rows].sort(order));
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
    });
  });
}
addEventListener("hashchange", () => {
  const trial = document.getElementById(location.hash.slice(1));
  if (trial?.tagName === "DETAILS") trial.open = true;
});
for (const button of document.querySelectorAll("button.copy")) {
  const text = document.getElementById(button.dataset.of);
  button.hidden = false;
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(text);
      button.textContent = "Selected: press Ctrl+C";
    }
  });
}
"""

# The page may load nothing, and run nothing but this script: whatever a trial's name or error holds.
POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-"
    + base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    + "'"
)
