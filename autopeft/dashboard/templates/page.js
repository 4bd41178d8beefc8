// One selection drives everything and is kept in the address: #trial=17 or #study=1&trial=17.
let DATA = JSON.parse($("data").textContent);
const view = { study: 0, row: null, cost: 0 };
const study = () => DATA.studies[view.study];

function select(row, focus) {
  view.row = row;
  if (heatMode !== "trial") heatMode = "trial";
  keepInAddress();
  drawDetails();
  drawHeat();
  showInTable(focus);
  markAll();
}

function show(index, row) {
  view.study = index;
  view.row = row ?? rowOf(study().front.recommended);
  view.cost = 0;
  keepInAddress();
  openStudy();
}

function rowOf(trial) {
  const row = trial === null ? -1 : study().columns.trial.indexOf(trial);
  return row < 0 ? null : row;
}

function keepInAddress() {
  const parts = [];
  if (DATA.studies.length > 1) parts.push(`study=${view.study}`);
  if (view.row !== null) parts.push(`trial=${study().columns.trial[view.row]}`);
  try {
    history.replaceState(null, "", parts.length ? `#${parts.join("&")}` : location.pathname + location.search);
  } catch { /* a frame of a notebook has no address of its own */ }
}

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  const index = +(given.get("study") ?? 0), before = view.study;
  view.study = index in DATA.studies ? index : 0;
  if (view.study !== before) view.cost = 0; // another study may have other costs
  const trial = given.get("trial");
  view.row = (/^\d+$/.test(trial || "") ? rowOf(+trial) : null) ?? rowOf(study().front.recommended);
}

function drawStudies() {
  const buttons = DATA.studies.map((item, k) => make("button", {
    type: "button", "data-focus": `study ${k}`, "aria-pressed": k === view.study ? "true" : "false", onclick: () => show(k) }, item.name));
  fill($("studies"), DATA.studies.length > 1 ? buttons : []);
}

function drawVerdict() {
  const { verdict, facts, name, metric, columns } = study();
  document.title = `${name} · autopeft`;
  $("verdict").dataset.tone = verdict.tone;
  $("study-name").textContent = name;
  $("headline").textContent = verdict.headline;
  $("what").textContent = verdict.answer;
  $("notation").textContent = notation(verdict.answer);
  const row = rowOf(verdict.trial);
  const [who, does] = againstLora(verdict);
  const merit = (value, beside, label) => make("div", {}, make("span", { class: "big" }, value, beside ? make("span", { class: "error" }, ` ${beside}`) : null), make("span", { class: "label" }, label));
  fill($("merits"), row === null ? [] : [
    merit(score(verdict.quality), `± ${score(verdict.stderr)}`, verdict.scored_on ? `${metric} on ${verdict.scored_on}` : metric),
    merit(whole(columns.params[row]), `(${percent(columns.fraction[row])})`, "parameters (of the backbone)"),
    merit(who, null, does),
  ]);
  fill($("because"), verdict.points.map((point) => make("li", {}, point)));
  const open = new Set([...$("facts").querySelectorAll("details[open]")].map((node) => node.dataset.fact));
  const long = (title, text) => make("details", { "data-fact": title, open: open.has(title) ? "" : null }, make("summary", { "data-focus": `fact ${title}` }, text));
  fill($("facts"), Object.entries(facts).map(([title, text]) => make("div", {}, make("dt", {}, title), make("dd", {}, text.length > 90 ? long(title, text) : text))));
}

// Who beats LoRA, and what they do: a subject and its predicate.
function againstLora({ tone, winners, scored_on: fresh }) {
  const lora = `${fresh ? "tuned LoRA" : "LoRA"} at its size`;
  if (tone === "none") return ["Not compared", `with ${lora}`];
  if (!winners.length) return ["Nothing", `beats ${lora} beyond noise`];
  const one = winners.length === 1;
  const who = one ? `Trial ${winners[0]}` : winners.length > 3 ? `${winners.length} trials` : `Trials ${winners.join(", ")}`;
  return [who, `${one ? "beats" : "beat"} ${lora} beyond noise`];
}

function drawAll() {
  drawStudies();
  drawVerdict();
  drawFront();
  drawDetails();
  drawHeat();
  drawTable();
  fillFigures($("more"), study().figures);
}

// Draw it all, the table at the trial that is selected.
function openStudy() {
  tableState.page = 0;
  turnTo(view.row);
  keepingFocus(drawAll);
}

// Newer data, with the same trial and cost chosen; whoever is at the recommended trial stays with it.
function renew(data) {
  const trial = view.row === null ? null : study().columns.trial[view.row];
  const followed = trial === study().front.recommended, cost = study().costs[view.cost].name;
  const walked = study().columns.trial[document.activeElement?.dataset.row];
  DATA = data;
  view.row = rowOf(followed ? study().front.recommended : trial);
  view.cost = Math.max(0, study().costs.findIndex((item) => item.name === cost));
  if (walked !== undefined) turnTo(rowOf(walked)); // the row with the focus stays in sight
  keepingFocus(() => { drawAll(); drawComparison(); });
}

// While it is served: ask for what is new, and keep what the reader had chosen.
async function refresh(last) {
  let tag = last;
  try {
    const answer = await fetch(`data.json${location.search}`, { headers: last ? { "If-None-Match": last } : {}, cache: "no-store" });
    if (answer.status === 200) {
      renew(await answer.json());
      tag = answer.headers.get("ETag");
    }
    heard(answer.ok || answer.status === 304 ? "live" : "the server refuses");
  } catch {
    heard("the server is gone; this is what it said last");
  }
  setTimeout(refresh, 2000, tag);
}

function heard(told) {
  $("live").textContent = told;
  $("live").classList.toggle("lost", told !== "live");
}

watchTheme(() => { redraw(); });
readAddress();
openStudy();
drawComparison();
addEventListener("hashchange", () => { readAddress(); openStudy(); });
$("cost").addEventListener("change", (event) => { view.cost = +event.target.value; drawFront(); });
for (const link of document.querySelectorAll('a[href="#trials"]')) {
  link.addEventListener("click", (event) => { // the address is the selection's
    event.preventDefault();
    $("trials").focus();
    $("trials").scrollIntoView();
  });
}
if (DATA.live) {
  $("live").hidden = false;
  refresh(null);
}
document.documentElement.dataset.ready = "yes";
