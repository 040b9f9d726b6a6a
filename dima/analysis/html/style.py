"""Style sheet of a page: light and dark, wide and narrow, on screen and on paper."""

CSS = """\
:root {
  --paper: #ffffff; --ink: #1b1e23; --faint: #5b636e; --rule: #d8dce1; --shade: #f4f5f7; --link: #1d5fc2;
  --alert: #8a6100; --grave: #b3261e; --good: #1c7a3e; color-scheme: light dark;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --paper: #14161a; --ink: #e4e6ea; --faint: #9aa2ad; --rule: #343941; --shade: #1d2026; --link: #7fb0f5;
    --alert: #e2b93b; --grave: #f28b82; --good: #6fcf8f;
  }
}
* { box-sizing: border-box; }
html { scroll-padding-top: 1rem; -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body {
  max-width: 62rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
h1 { margin: 0 0 .5rem; font-size: 1.9rem; line-height: 1.2; letter-spacing: -.01em; text-wrap: balance; }
h2 { margin: 3rem 0 .75rem; padding-top: 1rem; border-top: 1px solid var(--rule); font-size: 1.3rem; line-height: 1.3; }
p { max-width: 44rem; margin: .75rem 0; }
p.lead { color: var(--faint); font-size: 1.1rem; }
p.small { max-width: 52rem; color: var(--faint); font-size: .85rem; overflow-wrap: anywhere; }
p.notice { padding: .6rem .9rem; border-left: 4px solid var(--alert); background: var(--shade); }
ul.verdicts { max-width: 52rem; margin: 1rem 0; padding: 0; list-style: none; }
ul.verdicts li { position: relative; margin: .35rem 0; padding-left: 1.7rem; }
.mark { position: absolute; left: 0; font-weight: 700; font-variant-emoji: text; }
.good .mark { color: var(--good); }
.warning .mark { color: var(--alert); }
.grave .mark { color: var(--grave); }
.grave { font-weight: 600; }
details { margin: 1.25rem 0; }
summary { width: fit-content; padding: .2rem 0; color: var(--link); cursor: pointer; }
a { color: var(--link); text-underline-offset: .15em; }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; margin: 1.25rem 0 0; padding: 0; list-style: none; }
nav a { display: inline-block; padding: .2rem 0; }
dl {
  display: grid; grid-template-columns: fit-content(14rem) 1fr; gap: .2rem 1.25rem; margin: .75rem 0; font-size: .9rem;
}
dt { color: var(--faint); }
dd { margin: 0; min-width: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
.table { display: flex; flex-wrap: wrap; gap: .5rem 2.5rem; align-items: start; margin: 1.25rem 0; }
.table > p { flex: 1 1 15rem; max-width: 44rem; margin: .25rem 0; }
.scroll { max-width: 100%; overflow-x: auto; }
.scroll:focus-visible, a:focus-visible, summary:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
caption {
  max-width: min(44rem, 100vw - 2rem); padding-bottom: .5rem; color: var(--faint); text-align: left; caption-side: top;
}
th, td {
  padding: .35rem .9rem .35rem 0; border-bottom: 1px solid var(--rule); text-align: left; vertical-align: top;
  white-space: nowrap;
}
th.long, td.long { min-width: 13rem; white-space: normal; overflow-wrap: anywhere; }
thead th { border-bottom: 2px solid var(--rule); color: var(--faint); font-weight: 600; vertical-align: bottom; }
tbody th { font-weight: 500; }
tbody tr:last-child > * { border-bottom-color: transparent; }
.number { text-align: right; }
.figures { display: flex; flex-wrap: wrap; align-items: start; gap: 1.5rem; margin: 1.25rem 0; }
figure { max-width: 100%; margin: 0; break-inside: avoid; }
figure svg, figure img, figure video { display: block; max-width: 100%; height: auto; }
figure .wide img { min-width: 52rem; }
figure svg { fill: currentColor; }
figure svg * { stroke-linejoin: round; stroke-linecap: butt; }
figure svg text { font-family: inherit !important; }
figcaption { max-width: 44rem; margin-top: .5rem; color: var(--faint); font-size: .9rem; line-height: 1.45; }
figure:has(svg) { display: table; }
figure:has(svg) > figcaption { display: table-caption; caption-side: bottom; }
footer {
  margin-top: 4rem; padding-top: 1rem; border-top: 1px solid var(--rule); color: var(--faint); font-size: .85rem;
}
@media (max-width: 40rem) {
  body { padding: 1.25rem .9rem 3rem; }
  h1 { font-size: 1.5rem; }
  dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: .5rem; }
  table { font-size: .85rem; }
  th, td { padding-right: .7rem; }
  thead th { white-space: normal; }
}
@media print {
  @page { margin: 15mm; }
  html { font-size: 11px; }
  body { max-width: none; padding: 0; }
  nav { display: none; }
  details::details-content { content-visibility: visible; block-size: auto; }
  h2 { margin-top: 2rem; break-after: avoid; }
  h2 + p { break-after: avoid; }
  .figures > figure { max-width: calc(50% - .75rem); }
  .figures > figure:only-child { max-width: 65%; }
  .figures > figure:has(.wide) { max-width: 100%; }
  figure .wide img { min-width: 0; }
  .table, tr { break-inside: avoid; }
  .scroll { overflow: visible; }
  th, td, th.long, td.long { min-width: 0; white-space: normal; }
  .number { white-space: nowrap; }
  a { color: inherit; text-decoration: none; }
}
"""
