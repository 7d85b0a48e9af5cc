"""The page of `report`, as a jinja2 template. It asks nothing of the network and has no script."""

from __future__ import annotations

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>{{ title }}</title>
<style>
:root { color-scheme: light dark; --page: #fff; --ink: #1b1f24; --soft: #5c6570; --line: #d5dae0; --card: #f5f7f9;
        --right: 42 157 143; --wrong: 209 73 91; --truth: #00b4a0; --found: #ff8c1a; }
@media (prefers-color-scheme: dark) {
  :root { --page: #14171a; --ink: #e4e8ec; --soft: #9aa4af; --line: #343b43; --card: #1d2226; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 72rem; background: var(--page); color: var(--ink);
       font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .3rem; } h2 { font-size: 1.25rem; margin: 2.4rem 0 .6rem; }
h3 { font-size: 1rem; margin: 1.6rem 0 .4rem; }
p { margin: .4rem 0; max-width: 60rem; } .soft, figcaption, caption { color: var(--soft); }
.notice { border-left: 4px solid #d9822b; padding: .3rem .8rem; background: var(--card); font-weight: 600; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .3rem 0; }
caption { text-align: left; padding-bottom: .2rem; }
th, td { padding: .2rem .7rem .2rem 0; text-align: right; border-bottom: 1px solid var(--line); vertical-align: top; }
th:first-child, td:first-child, .left th, .left td { text-align: left; }
.left td { white-space: pre-line; overflow-wrap: anywhere; } .left th { white-space: nowrap; }
thead th { color: var(--soft); font-weight: 600; } td small { color: var(--soft); white-space: nowrap; }
.matrix td, .matrix th { padding: .3rem .7rem; text-align: right; } .matrix td { min-width: 4.2rem; }
.pair { display: flex; flex-wrap: wrap; gap: 0 3rem; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(19rem, 1fr)); gap: 1rem; }
.crops { display: grid; grid-template-columns: repeat(auto-fill, minmax(11.5rem, 1fr)); gap: 1rem; }
figure { margin: 0; break-inside: avoid; } figure svg { width: 100%; height: auto; display: block; }
figcaption { font-size: .82rem; overflow-wrap: anywhere; } .crops b { color: var(--ink); }
.truth { stroke: var(--truth); } .found { stroke: var(--found); stroke-dasharray: 5 3; }
.truth, .found { fill: none; stroke-width: 1.4; } .focus { stroke-width: 3; }
.key { display: inline-block; width: 1.6em; border-top: 3px solid var(--truth); vertical-align: middle; }
.key.f { border-top: 3px dashed var(--found); }
code { font: .85em ui-monospace, monospace; overflow-wrap: anywhere; }
@media print { :root { --page: #fff; --ink: #000; --soft: #444; --line: #bbb; --card: #f3f3f3; }
  body { max-width: none; padding: 0; font-size: 10pt; } h2 { break-after: avoid; } h3 { break-after: avoid; }
  tr { break-inside: avoid; } * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
</style>
</head>
<body>
<header>
<h1>{{ title }}</h1>
<p class="notice">{{ notice }}</p>
<p class="soft">blastdet {{ version }}. Every interval is a 95 % interval over groups of smears
(patient, overlapping fields), unless it says otherwise.</p>
</header>

<h2>Headline</h2>
<div class="scroll"><table>
<caption>Average precision, at most {{ evaluations[0].max_dets }} boxes per class and smear; compared with
{{ evaluations[0].pycocotools }} in this run: equal to the last digit.</caption>
<thead><tr><th>model</th><th>data</th><th>class</th><th>cells</th><th>AP50</th><th>AP50:95</th><th>AP75</th><th>AR</th></tr></thead>
<tbody>{% for e in evaluations %}{% for row in e.rows %}
<tr><td>{{ row.model }}</td><td>{{ row.data }}</td><td>{{ row.name }}</td><td>{{ row.n }}</td>
{% for value in row.figures %}<td>{{ number(value) }}</td>{% endfor %}</tr>{% endfor %}{% endfor %}
</tbody></table></div>

{% if differences %}
<h2>Differences</h2>
<p>A: <code>{{ differences[0].A }}</code>, B: <code>{{ differences[0].B }}</code>.
Intervals: {{ differences[0].interval }}.
Sensitivity, precision and F1 at each model's own operating point, class-aware matching.</p>
<div class="scroll"><table>
<thead><tr><th>data</th><th>class</th><th>figure</th><th>A</th><th>B</th><th>B − A</th><th></th></tr></thead>
<tbody>{% for d in differences %}
<tr><td>{{ d.data }}</td><td>{{ d.class }}</td><td>{{ d.figure }}</td><td>{{ d.value_A }}</td><td>{{ d.value_B }}</td>
<td>{{ number(d.change) }}</td><td>{{ d.verdict }}</td></tr>{% endfor %}
</tbody></table></div>
{% endif %}

{% for e in evaluations %}
<h2>{{ e.title }}</h2>
{% if e.notes %}<ul>{% for note in e.notes %}<li>{{ note }}</li>{% endfor %}</ul>{% endif %}

<h3>Per cell</h3>
<div class="pair">
{% for m in e.matrices %}
<div class="scroll"><table class="matrix">
<caption><b>{{ m.title }}</b><br>rows: truth, columns: predicted</caption>
<thead><tr><th></th>{% for c in m.columns %}<th>{{ c }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in m.rows %}<tr><th>{{ row.name }}</th>
{% for cell in row.cells %}<td style="background: rgb(var(--{{ cell.kind }}) / {{ cell.shade }})">{{ cell.text }}</td>
{% endfor %}</tr>{% endfor %}</tbody></table></div>
{% endfor %}
</div>
{% for m in e.matrices %}
<div class="scroll"><table>
<caption>{{ m.title }}</caption>
<thead><tr><th>class</th>{% for name in m.figure_names %}<th>{{ name }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in m.figures %}<tr><td>{{ row.name }}</td>
{% for value in row.texts %}<td>{{ number(value) }}</td>{% endfor %}</tr>{% endfor %}</tbody></table></div>
{% endfor %}
<div class="scroll"><table>
<caption>Localisation and classification apart and jointly ({{ e.matrices[0].title }})</caption>
<tbody>{% for f in e.joint %}
<tr><td>{{ f.name }}</td><td>{{ number(f.text) }}</td><td>of {{ f.n }}</td></tr>{% endfor %}
</tbody></table></div>

{% if e.tests %}
<h3>ALL-IDB1 tests</h3>
<div class="scroll"><table>
<caption>Centroid inside the box, one to one, sides of 5 to 30 µm. CE = FP + FN.</caption>
<thead><tr><th>test</th><th>TP</th><th>FN</th><th>TN</th><th>FP</th><th>CE</th><th>sensitivity</th><th>specificity</th>
<th>false blasts on no white cell</th></tr></thead>
<tbody>{% for t in e.tests %}<tr><td>{{ t.name }}</td>{% for v in t.counts %}<td>{{ v }}</td>{% endfor %}
<td>{{ number(t.sensitivity) }}</td><td>{{ number(t.specificity) }}</td><td>{{ t.nowhere }}</td></tr>{% endfor %}
</tbody></table></div>
<p>Boxes holding several centroids: {{ e.several }}.</p>
{% endif %}

{% if e.sizes %}
<h3>By cell size</h3>
<div class="scroll"><table>
<caption>AP50 by size of the cell (square root of its box's area), with the number of cells</caption>
<thead><tr><th>class</th>{% for s in e.sizes.columns %}<th>{{ s }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in e.sizes.rows %}<tr><td>{{ row.name }}</td>
{% for v in row.cells %}<td>{{ v }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>
{% endif %}

{% if e.slices %}
<h3>Where it is hard</h3>
<div class="scroll"><table>
<caption>Sensitivity for some of the cells ({{ e.matrices[1].title }})</caption>
<thead><tr><th>cells</th>{% for name in e.classes %}<th>{{ name }}</th>{% endfor %}</tr></thead>
<tbody>{% for s in e.slices %}<tr><td>{{ s.name }}</td>{% for v in s.cells %}<td>{{ number(v) }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>
{% endif %}

{% if e.counts %}
<h3>Counts per smear</h3>
<div class="scroll"><table>
<caption>At the operating point. Bias: found − true; limits of agreement after Bland and Altman; concordance after
Lin.</caption>
<thead><tr><th>count</th><th>smears</th><th>true</th><th>found</th><th>mean absolute error</th><th>bias</th>
<th>limits of agreement</th><th>concordance</th></tr></thead>
<tbody>{% for c in e.counts %}<tr>{% for v in c %}<td>{{ number(v) }}</td>{% endfor %}</tr>{% endfor %}
</tbody></table></div>
{% endif %}

<h3>Curves</h3>
<div class="plots">{% for caption, svg in e.plots %}
<figure>{{ svg | safe }}<figcaption>{{ caption }}</figcaption></figure>
{% endfor %}</div>

{% if e.crops %}
<h3>The {{ e.crops | length }} worst errors</h3>
<p class="soft">Worst of each kind in turn, at {{ e.matrices[0].title }}.
<span class="key"></span> truth <span class="key f"></span> predicted; thick: the cell in question.</p>
<div class="crops">{% for c in e.crops %}<figure>
<svg viewBox="0 0 {{ side }} {{ side }}" role="img" aria-label="{{ c.label }}">
<rect width="{{ side }}" height="{{ side }}" fill="#8884"/>
{% if c.picture %}<image href="{{ c.picture }}" width="{{ side }}" height="{{ side }}"/>{% else %}
<text x="10" y="20" fill="currentColor" font-size="12">image not found</text>{% endif %}
{% for kind, boxes in (("truth", c.truth), ("found", c.found)) %}{% for b in boxes %}
<rect class="{{ kind }}{{ ' focus' if b.focus }}" x="{{ b.x | round(1) }}" y="{{ b.y | round(1) }}"
 width="{{ b.width | round(1) }}" height="{{ b.height | round(1) }}"><title>{{ kind }}: {{ b.text }}</title></rect>
{% endfor %}{% endfor %}</svg>
<figcaption><b>{{ c.label }}</b><br>{{ c.file_name }}</figcaption></figure>
{% endfor %}</div>
{% endif %}

<h3>Data and model</h3>
<div class="scroll"><table class="left">{% for key, lines in e.facts %}
<tr><th>{{ key }}</th><td>{{ lines | join("\n") }}</td></tr>{% endfor %}
</table></div>
{% endfor %}

<h2>How it was measured</h2>
<ul>{% for line in how %}<li>{{ line }}</li>{% endfor %}</ul>
<p class="notice">{{ notice }}</p>
</body>
</html>
"""
