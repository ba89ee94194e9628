"""The style sheet and the frame of a page: system fonts, dark where the reader's system is dark."""

from __future__ import annotations

from puna.report.markup import Html, esc

CSS = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c1f23; --soft: #5d6670; --rule: #dde1e6;
  --wash: #f5f6f8; --accent: #0b66c3; --good: #17703b; --bad: #b3261e; --flat: #80590a; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14171a; --ink: #e4e7ea; --soft: #9aa3ad; --rule: #333a41; --wash: #1d2126;
    --accent: #6cb2ff; --good: #69c98e; --bad: #ff8f86; --flat: #dcb15c; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); -webkit-text-size-adjust: 100%;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .5rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.75rem 0 .5rem; padding-top: .75rem;
  border-top: 1px solid var(--rule); }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; overflow-wrap: anywhere; }
.lead { font-size: 1.15rem; max-width: 46rem; margin: 0 0 .5rem; }
.note, .meta, figcaption, .range { color: var(--soft); font-size: .875rem; }
.note { max-width: 46rem; margin: .25rem 0 .75rem; }
.state { border-left: 3px solid var(--flat); padding: .25rem .75rem; background: var(--wash); }
.scroll { overflow-x: auto; margin: .75rem 0; }
table { border-collapse: separate; border-spacing: 0; font-size: .9rem;
  font-variant-numeric: tabular-nums; }
.wide { width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .4rem .9rem .4rem 0;
  border-bottom: 1px solid var(--rule); }
td { white-space: nowrap; }
.verdict { display: inline-block; white-space: normal; min-width: 8rem; max-width: 11rem; }
.under { display: block; color: var(--soft); font-size: .8rem; }
.say { display: inline-block; white-space: normal; min-width: 12rem; max-width: 30rem;
  overflow-wrap: anywhere; }
thead th { font-weight: 600; color: var(--soft); font-size: .8rem; white-space: nowrap;
  vertical-align: bottom; }
tbody th { font-weight: 600; white-space: nowrap; }
tr.seed th { font-weight: 400; padding-left: 1.1rem; }
tbody th, thead th:first-child { position: sticky; left: 0; background: var(--paper); }
.tasks tbody th { font-weight: 400; }
tr.seed { color: var(--soft); }
.range { display: block; font-weight: 400; font-size: .78rem; white-space: nowrap; }
.good { color: var(--good); } .bad { color: var(--bad); } .flat { color: var(--flat); }
.soft { color: var(--soft); }
code, pre { font: .85rem/1.45 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
pre { background: var(--wash); border-radius: 6px; padding: .6rem .75rem; margin: .4rem 0;
  white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: isolate; }
details { border-bottom: 1px solid var(--rule); padding: .4rem 0; }
summary { cursor: pointer; overflow-wrap: anywhere; }
.panels { display: grid; gap: 1rem 1.5rem; margin: .5rem 0;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 15rem), 1fr)); }
.sides { display: grid; gap: 1rem 1.5rem; margin: .5rem 0;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 19rem), 1fr)); }
.sides > *, .panels > * { min-width: 0; }
figure { margin: 0 0 1.25rem; }
.panels svg { display: block; width: 100%; height: auto; }
.forest svg, .scatter svg, .heat svg { display: block; width: 100%; height: auto; }
.forest { max-width: 32rem; } .scatter { max-width: 24rem; } .heat { max-width: 46rem; }
.panels svg * { stroke-linejoin: round; stroke-linecap: butt; }
.lineage { display: block; margin: 0 auto 0 0; }
.who { color: var(--soft); font-size: .8rem; margin: .5rem 0 -.2rem; }
.bars { display: grid; grid-template-columns: minmax(6rem, max-content) 1fr max-content;
  gap: .35rem .75rem; align-items: center; font-size: .9rem; max-width: 46rem;
  font-variant-numeric: tabular-nums; }
.bar { height: .9rem; background: var(--rule); border-radius: 3px; }
.bar.mine { background: var(--accent); } .bar.bad-bar { background: var(--bad); }
mark { background: none; color: var(--accent); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; font-size: .9rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
footer { margin-top: 3rem; color: var(--soft); font-size: .8rem; }
@media (max-width: 40rem) { tbody th { white-space: normal; min-width: 5rem; max-width: 9rem;
  overflow-wrap: anywhere; }
  .tasks tbody th { max-width: 12rem; }
  main { padding: 1.25rem 1rem 3rem; } h1 { font-size: 1.4rem; }
  .lead { font-size: 1.05rem; } }
@media (max-width: 40rem) { .audit tbody th { overflow-wrap: normal; } }
@media (min-width: 68rem) { .figures { display: grid; grid-template-columns: repeat(4, 1fr);
  column-gap: 1.5rem; } .span2 { grid-column: span 2; } .span3 { grid-column: span 3; }
  .span4 { grid-column: span 4; } }
"""


def frame(title: str, body: Html) -> str:
    """A whole document; its policy forbids scripts and any request, whatever the body holds."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{esc(title)}</title>\n<style>{CSS}</style>\n</head>\n"
        f"<body><main>\n{body}\n</main></body>\n</html>\n"
    )
