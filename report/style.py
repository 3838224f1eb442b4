"""The style of the page: one column, system fonts, light and dark by the reader's setting, printable."""

from fewstep.report.drawing import plots

PAGE = """
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 1000px; margin: 0 auto; padding: 48px 24px 96px; }
header { border-bottom: 1px solid var(--line); padding-bottom: 20px; margin-bottom: 28px; }
h1 { font-size: 30px; line-height: 1.2; letter-spacing: -0.02em; margin: 0 0 6px; }
h2 { font-size: 20px; letter-spacing: -0.01em; margin: 0 0 8px; }
h3 { font-size: 15px; margin: 28px 0 6px; }
section { margin-top: 56px; }
p { max-width: 46em; margin: 8px 0; } .lead, .note, figcaption { color: var(--muted); }
code { font: 0.88em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
pre { background: var(--panel); border-radius: 8px; padding: 12px 16px; margin: 8px 0; white-space: pre-wrap; }
data { white-space: nowrap; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)); gap: 14px; }
.card { background: var(--panel); border-radius: 10px; padding: 16px 18px; margin: 0; }
.card dt { font-size: 13px; color: var(--muted); } .card dd { margin: 0; font-size: 29px; font-weight: 620;
  letter-spacing: -0.02em; font-variant-numeric: tabular-nums; }
.card .note { font-size: 13px; font-weight: 400; letter-spacing: 0; line-height: 1.4; margin-top: 4px; }
.scroll { overflow-x: auto; margin: 12px 0; /* a shadow at an edge behind which there is more */
  background: linear-gradient(to right, var(--page) 16px, transparent 32px) local,
    linear-gradient(to left, var(--page) 16px, transparent 32px) local,
    linear-gradient(to right, var(--shadow), transparent 14px),
    linear-gradient(to left, var(--shadow), transparent 14px);
}
table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; }
th { font-weight: 600; text-align: left; color: var(--muted); vertical-align: bottom; }
th, td { padding: 6px 14px 6px 0; border-bottom: 1px solid var(--line); } td { vertical-align: top; }
th:last-child, td:last-child { padding-right: 0; }
.n { text-align: right; } td.n, td:first-child { white-space: nowrap; }
figure { margin: 16px 0 22px; } figure .scroll { margin: 0; }
figcaption { font-size: 13px; margin-top: 6px; max-width: 60em; }
img { width: 100%; image-rendering: pixelated; display: block; border-radius: 4px; }
.strip { display: grid; grid-template-columns: fit-content(170px) minmax(0, 1fr); gap: 6px 14px;
  align-items: center; font-size: 13px; overflow-wrap: anywhere; }
.strip .columns { display: grid; grid-template-columns: repeat(10, 1fr); gap: 2px; text-align: center;
  color: var(--muted); font-size: 12px; line-height: 1.25; }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(400px, 1fr)); gap: 28px; }
a { color: inherit; text-decoration: underline dotted; text-underline-offset: 3px; }
.words dt { font-weight: 600; margin-top: 10px; } .words dd { margin: 0; max-width: 46em; color: var(--muted); }
.words dt:target { background: var(--panel); }
summary { cursor: pointer; color: var(--muted); font-size: 14px; margin-top: 10px; }
footer { margin-top: 72px; border-top: 1px solid var(--line); padding-top: 12px; color: var(--muted); font-size: 13px; }
@media (max-width: 920px) { .cards { grid-template-columns: 1fr 1fr; }
  .card:last-child:nth-child(odd) { grid-column: span 2; } .scroll > .wide { min-width: 620px; } }
@media (max-width: 520px) { main { padding: 28px 16px 64px; } .two, .strip { grid-template-columns: minmax(0, 1fr); }
  .card { padding: 12px; } .card dd { font-size: 24px; } .card .note { font-size: 12px; }
  .strip .columns { font-size: 11px; } table { font-size: 13px; } th, td { padding-right: 8px; } }
@media print { main { max-width: none; padding: 0; } section { break-inside: avoid; }
  .scroll { overflow: visible; background: none; } table { font-size: 10px; } th, td { padding-right: 6px; } }
"""

STYLE = plots.PALETTE + PAGE + plots.STYLE
