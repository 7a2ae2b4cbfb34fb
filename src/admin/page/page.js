// The page: asks the management API now and then, and shows what it says. All texts are set as texts, never as markup.
'use strict';

const API = 'api/v1/rate-limit/';
const TOKEN = 'tollgate-token';
// So long an answer may take, and so long the page waits between two questions if the answer does not say.
const PATIENCE_MS = 5000;
const EVERY_MS = 2000;
const PEOPLE = 10;
// Of more hits of a rule it is told about how many they were.
const EXACT = 512;
// Up to so many rules the tree is opened.
const OPENED = 60;
const SVG = 'http://www.w3.org/2000/svg';

const $ = (id) => document.getElementById(id);

// ---- elements

function el(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name === 'on') for (const [event, call] of Object.entries(value)) made.addEventListener(event, call);
    else if (value === true) made.setAttribute(name, '');
    else if (value !== false && value != null) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child != null));
  return made;
}

// Sets a text only if it has changed, so that what is selected or read aloud stays.
function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// Makes these the children of an element, in this order. Those that stand right already are not touched: what is pressed stays pressed.
function lineUp(list, wanted) {
  const stays = new Set(wanted);
  for (const child of [...list.children]) if (!stays.has(child)) child.remove();
  const held = list.contains(document.activeElement) ? document.activeElement : null;
  wanted.forEach((child, place) => {
    if (list.children[place] !== child) list.insertBefore(child, list.children[place] || null);
  });
  // What has the focus loses it where it is moved.
  if (held && held !== document.activeElement) held.focus({ preventScroll: true });
}

function rate(value) {
  if (!value) return '0';
  if (value < 0.1) return '<0.1';
  if (value < 10) return value.toFixed(1);
  if (value < 10000) return Math.round(value).toLocaleString('en');
  return Math.round(value / 1000).toLocaleString('en') + 'k';
}

const whole = (value) => Math.round(value).toLocaleString('en');
const many = (count, what) => `${whole(count)} ${what}${count === 1 ? '' : 's'}`;
const percent = (share) => (share < 0.01 ? '<1' : Math.round(share * 100)) + ' %';

// The mean of the last samples: single ones jump.
function lately(samples) {
  const last = (samples || []).slice(-3);
  return last.length ? last.reduce((sum, one) => sum + one, 0) / last.length : 0;
}

function ago(moment, now) {
  const secs = Math.max(0, (Date.parse(now) - Date.parse(moment)) / 1000);
  if (secs < 60) return 'just now';
  if (secs < 5400) return many(Math.round(secs / 60), 'minute') + ' ago';
  if (secs < 129600) return many(Math.round(secs / 3600), 'hour') + ' ago';
  return many(Math.round(secs / 86400), 'day') + ' ago';
}

// As it was before it was written into a key.
function readable(text) {
  return text.split('|').map((part) => {
    try { return decodeURIComponent(part); } catch { return part; }
  }).join(', ');
}

// ---- charts

function spark(label) {
  const svg = document.createElementNS(SVG, 'svg');
  svg.setAttribute('class', 'spark');
  svg.setAttribute('viewBox', '0 0 100 30');
  svg.setAttribute('preserveAspectRatio', 'none');
  svg.setAttribute('role', 'img');
  svg.setAttribute('aria-label', label);
  return svg;
}

// Draws lines of samples, [name, samples], oldest first, into the right end of the time that is remembered.
function draw(svg, lines, room) {
  const highest = Math.max(1e-9, ...lines.flatMap(([, samples]) => samples));
  const any = lines.some(([, samples]) => samples.some((one) => one > 0));
  const paths = [['base', 'M0 29.5H100']];
  for (const [name, samples] of any ? lines : []) {
    if (!samples.some((one) => one > 0)) continue;
    const step = 100 / Math.max(1, room - 1);
    const first = 100 - step * (samples.length - 1);
    const points = samples.map((one, i) => `${(first + i * step).toFixed(2)} ${(29.5 - (one / highest) * 28).toFixed(2)}`);
    paths.push([`${name} area`, `M${first.toFixed(2)} 29.5L${points.join('L')}L100 29.5Z`], [name, `M${points.join('L')}`]);
  }
  const drawn = paths.map(([name, d]) => {
    const path = document.createElementNS(SVG, 'path');
    path.setAttribute('class', name);
    path.setAttribute('d', d);
    return path;
  });
  svg.replaceChildren(...drawn);
}

// ---- asking

class Refused extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

async function ask(path) {
  const token = sessionStorage.getItem(TOKEN);
  const answer = await fetch(API + path, {
    headers: token ? { authorization: `Bearer ${token}` } : {},
    signal: AbortSignal.timeout(PATIENCE_MS),
    cache: 'no-store',
  });
  if (answer.ok) return answer.json();
  const problem = await answer.json().catch(() => ({}));
  throw new Refused(answer.status, problem.detail || `the API answers ${answer.status}`);
}

let shown = null;
let silentSince = null;

async function look() {
  try {
    shown = await ask('overview');
    silentSince = null;
    $('token').hidden = true;
    $('all').hidden = false;
    showOverview(shown);
  } catch (error) {
    failed(error);
  }
}

function failed(error) {
  if (error instanceof Refused && error.status === 401) {
    if ($('token').hidden) {
      $('token').hidden = false;
      $('token-text').focus();
    }
    say($('token-why'), sessionStorage.getItem(TOKEN) ? 'The token that was given is not known.' : 'This instance shows itself to those who have one.');
    $('all').hidden = true;
    verdict('wait', 'Who asks?', []);
  } else if (error instanceof Refused) {
    $('all').hidden = true;
    verdict('warn', 'The API does not tell this page anything.', [error.message]);
  } else {
    silentSince = silentSince || Date.now();
    const secs = Math.round((Date.now() - silentSince) / 1000);
    verdict('bad', 'Tollgate does not answer.', [`For ${many(secs, 'second')}. What is below is what it said last.`]);
  }
}

// ---- the first line

function verdict(level, headline, points, reason) {
  const box = $('verdict');
  const key = JSON.stringify([level, headline, points, reason]);
  if (box.dataset.key === key) return;
  box.dataset.key = key;
  box.dataset.level = level;
  const parts = [el('p', { class: 'headline' }, headline)];
  if (points.length === 1) parts.push(el('p', {}, points[0]));
  if (points.length > 1) parts.push(el('ul', {}, ...points.map((point) => el('li', {}, point))));
  if (reason) {
    const details = box.querySelector('details') || el('details', {}, el('summary', {}, 'What is wrong with them'), el('pre', { tabindex: 0 }));
    say(details.querySelector('pre'), reason);
    parts.push(details);
  }
  lineUp(box, parts);
  const marks = { good: '', wait: '', warn: '▲ ', bad: '● ' };
  document.title = `${marks[level]}Tollgate`;
}

function judge(all) {
  const { health, loads } = all;
  const troubles = [];
  const trouble = (level, headline) => troubles.push([level, headline]);
  const without = lately(all.without_store);
  if (health.draining) trouble('bad', 'This instance is about to end: requests should go elsewhere.');
  else if (!health.rules.loaded) trouble('bad', 'There are no rules: this instance is not ready.');
  else if (!health.store.answered) trouble('bad', 'The store has not answered yet: this instance is not ready.');
  else if (!health.ready) trouble('bad', 'There is no domain: this instance is not ready.');
  const servers = health.store.servers;
  const away = servers.filter((server) => !server.connected || server.breaker === 'open');
  if (away.length) {
    const all_away = away.length === servers.length;
    const which = all_away ? 'Redis does not answer' : `${away.length} of ${servers.length} servers of Redis do not answer`;
    trouble(all_away ? 'bad' : 'warn', `${which}: failure modes decide.`);
  } else if (without > 0) {
    trouble('warn', `${rate(without)} requests a second are decided without the store.`);
  }
  const unconfirmed = servers.filter((server) => server.replicated_breaker === 'open').length;
  if (unconfirmed) trouble('warn', `${many(unconfirmed, 'server')} of Redis: replicas do not confirm.`);
  if (loads.failed) {
    const since = loads.loaded_at ? `those of ${ago(loads.loaded_at, all.now)} hold` : 'and none were loaded before';
    trouble('warn', `The rule files have errors: ${since}.`);
  }
  if (all.shadow_mode) trouble('warn', 'Shadow mode: nothing is refused.');
  const asked = lately(all.requests.asked), refused = lately(all.requests.refused);
  if (asked > 0 && refused / asked > 0.1) {
    const most = all.rules.map((one) => [lately(one.hits.refused), one.rule.name]).sort((a, b) => b[0] - a[0])[0];
    const by = most && most[0] > 0 ? `, most of them by ${most[1]}` : '';
    trouble('warn', `${percent(refused / asked)} of the requests are refused${by}.`);
  }
  troubles.sort((a, b) => (b[0] === 'bad') - (a[0] === 'bad'));
  const reason = loads.failed ? loads.failed.reason : null;
  if (!troubles.length) return verdict('good', 'All is well.', []);
  const [[level, first], ...others] = troubles;
  return verdict(level, first, others.map(([, text]) => text), reason);
}

// ---- at a glance

const askedLine = spark('');
const refusedLine = spark('');
$('asked-line').append(askedLine);
$('refused-line').append(refusedLine);

function showOverview(all) {
  judge(all);
  say($('about'), `${all.version} · ${many(all.instances, 'instance')}`);
  say($('fresh'), `as of ${new Date(all.now).toLocaleTimeString()}`);
  const { asked, refused } = all.requests;
  const now = lately(asked), no = lately(refused);
  say($('asked'), rate(now));
  say($('refused'), rate(no));
  say($('share'), now > 0 ? percent(no / now) : '');
  draw(askedLine, [['asked', asked], ['refused', refused]], all.samples);
  draw(refusedLine, [['refused', refused]], all.samples);
  askedLine.setAttribute('aria-label', `${rate(now)} requests a second, two minutes`);
  refusedLine.setAttribute('aria-label', `${rate(no)} refusals a second, two minutes`);

  const { store } = all.health;
  const away = store.servers.filter((server) => !server.connected || server.breaker === 'open').length;
  const level = away === 0 ? 'good' : away === store.servers.length ? 'bad' : 'warn';
  const state = store.type === 'embedded' ? 'In memory' : away ? `Redis: ${away} of ${store.servers.length} away` : 'Redis answers';
  $('store').replaceChildren(el('span', { class: `dot ${level}` }), state);
  $('servers').replaceChildren(...store.servers.map((server) => {
    const open = server.breaker === 'open';
    const how = open ? 'breaker open' : !server.connected ? 'no connection' : server.replicated_breaker === 'open' ? 'replicas do not confirm' : 'answers';
    const well = !open && server.connected;
    return el('li', { title: server.name }, el('span', { class: `dot ${well ? (how === 'answers' ? 'good' : 'warn') : 'bad'}` }), `${server.name} ${how}`);
  }));
  say($('without'), store.type === 'embedded' ? 'The counters are in this process alone.' : `Decided without it: ${rate(lately(all.without_store))}/s`);

  say($('rules-count'), whole(all.rules_counted));
  say($('rules-domains'), ` in ${many(all.domains.length, 'domain')}`);
  say($('rules-loaded'), all.loads.loaded_at ? `Loaded ${ago(all.loads.loaded_at, all.now)}, ${new Date(all.loads.loaded_at).toLocaleTimeString()}` : 'Never loaded');
  say($('rules-warnings'), all.loads.failed ? 'The last load failed.' : all.loads.warnings ? many(all.loads.warnings, 'warning') : '');
  say($('more'), all.rules.length < all.rules_counted ? `${whole(all.rules.length)} of ${whole(all.rules_counted)} rules: those that are asked for most.` : '');
  showTree(all);
  showDomains(all.domains.map((domain) => domain.name));
}

// ---- the tree of rules

let tree = { key: null, rows: [] };

// What is below a domain, level by level; a node that is a rule has its place in the answer.
function grown(all) {
  const domains = new Map(all.domains.map((domain) => [domain.name, { domain, below: new Map() }]));
  all.rules.forEach(({ rule }, place) => {
    let node = domains.get(rule.domain);
    if (!node) return;
    for (const level of rule.descriptor) {
      const key = JSON.stringify([level.key, level.value]);
      if (!node.below.has(key)) node.below.set(key, { level, below: new Map() });
      node = node.below.get(key);
    }
    node.place = place;
  });
  return [...domains.values()];
}

function showTree(all) {
  const key = JSON.stringify([all.domains.map((domain) => domain.name), all.rules.map((one) => one.rule)]);
  if (tree.key !== key) {
    tree = { key, rows: [] };
    const open = all.rules.length <= OPENED;
    $('tree').replaceChildren(el('ul', {}, ...grown(all).map((node) => branch(all, node, open))));
    find();
  }
  for (const row of tree.rows) row(all);
}

function limitText(limit) {
  const unit = limit.unit_multiplier > 1 ? `${limit.unit_multiplier} ${limit.unit}s` : limit.unit;
  return `${whole(limit.requests_per_unit)} / ${unit}`;
}

function ruleText(rule) {
  if (rule.unlimited) return 'unlimited';
  if (rule.plan) return `plan from ${rule.plan.from === 'directory' ? 'the directory' : rule.plan.from}, else ${rule.plan.default}`;
  return rule.limits.map(limitText).join(', ');
}

function branch(all, node, open) {
  const one = node.place === undefined ? null : all.rules[node.place];
  const name = el('span', { class: 'name' });
  if (node.domain) name.append(node.domain.name);
  else name.append(el('span', { class: 'mono' }, node.level.key, node.level.value ? '=' : ''), el('span', { class: 'mono value' }, node.level.value));
  if (one) {
    if (one.rule.shadow_mode) name.append(el('span', { class: 'tag' }, 'shadow'));
    if (one.rule.quota_mode) name.append(el('span', { class: 'tag calm' }, 'quota'));
    if (one.rule.ban) name.append(el('span', { class: 'tag calm' }, 'bans'));
    name.append(el('small', {}, ruleText(one.rule)));
  }
  const line = spark('');
  const asked = el('span', { class: 'rate none' });
  const refused = el('span', { class: 'rate refused none' });
  const summary = el('summary', {}, name, line, asked, refused);
  const rates = (all) => (node.domain ? (all.domains.find((domain) => domain.name === node.domain.name) || node.domain).requests : one && all.rules[node.place].hits);
  tree.rows.push((all) => {
    const seen = rates(all);
    if (!seen) return line.classList.add('empty');
    const [now, no] = [lately(seen.asked), lately(seen.refused)];
    draw(line, [['asked', seen.asked], ['refused', seen.refused]], all.samples);
    line.setAttribute('aria-label', `${rate(now)} hits a second, ${rate(no)} refused, in the last two minutes`);
    const counted = node.domain || one.counted;
    say(asked, counted ? `${rate(now)}/s` : 'by value');
    say(refused, no ? `${rate(no)}/s` : '–');
    asked.title = counted ? 'hits a second' : 'Its metrics have the values of requests in their names: look there';
    refused.title = 'of these refused';
    asked.classList.toggle('none', !now);
    refused.classList.toggle('none', !no);
  });
  const below = [...node.below.values()].map((next) => branch(all, next, open));
  const isOpen = Boolean(node.domain) || (open && below.length > 0);
  const box = el('details', { open: isOpen }, summary);
  if (one) box.append(detail(one.rule));
  if (below.length) box.append(el('ul', {}, ...below));
  const text = [node.domain ? node.domain.name : `${node.level.key}=${node.level.value}`, one ? one.rule.name : ''].join(' ').toLowerCase();
  return el('li', { class: node.domain ? 'domain' : null, 'data-text': text }, box);
}

function detail(rule) {
  const rows = [['Rule', rule.name]];
  for (const limit of rule.limits) rows.push([limit.name, `${limitText(limit)}, ${limit.algorithm.replace('_', ' ')}, holds ${limit.capacity}`]);
  if (rule.plan) rows.push(['Plan', ruleText(rule)]);
  if (rule.ban) rows.push(['Ban', `after ${whole(rule.ban.after)} refusals in ${rule.ban.within_seconds} s, for ${rule.ban.for_seconds} s`]);
  rows.push(['Where', `${rule.file}:${rule.line}, ${rule.path}`]);
  const list = el('dl', {}, ...rows.flatMap(([name, text]) => [el('dt', {}, name), el('dd', {}, text)]));
  const fill = () => explainOf(rule.domain, rule.descriptor.map((level) => `${level.key}=${escaped(level.value || 'VALUE')}`).join(','), false);
  return el('div', { class: 'detail' }, list, el('button', { type: 'button', class: 'small', on: { click: fill } }, 'Explain a request to it'));
}

// Shows only what has the text, and what it stands in.
function find() {
  const wanted = $('find').value.trim().toLowerCase();
  const visit = (item, isIn) => {
    const has = isIn || item.dataset.text.includes(wanted);
    const below = item.querySelectorAll(':scope > details > ul > li');
    let any = has;
    for (const next of below) any = visit(next, has && wanted !== '') || any;
    item.hidden = !any;
    if (any && !has && wanted) item.firstElementChild.open = true;
    return any;
  };
  for (const item of document.querySelectorAll('#tree > ul > li')) visit(item, wanted === '');
}
$('find').addEventListener('input', find);

// ---- who

const chosen = (name) => document.querySelector(`input[name=${name}]:checked`).value;

async function lookWho() {
  const [by, window] = [chosen('by'), chosen('window')];
  try {
    const top = await ask(`top?by=${by}&window=${window}&limit=${PEOPLE}`);
    if (by === chosen('by') && window === chosen('window')) showWho(top);
  } catch {
    // What there is to say of it is said by the first line.
  }
}

// The rows that are shown. They stay from one answer to the next, so that a button which is pressed or has the focus stays itself.
let people = new Map();

function personRow(one) {
  const key = JSON.stringify([one.rule.domain, one.rule.rule, one.subject]);
  const known = people.get(key);
  if (known) return known;
  const share = el('span', { class: 'share', 'aria-hidden': 'true' });
  const count = el('span', { class: 'count' });
  const of = el('small', {}, `${one.rule.domain} › ${one.rule.rule}`);
  const why = el('button', { type: 'button', class: 'small', 'aria-label': `Explain a request of ${readable(one.subject)}`, on: { click: () => explainSubject(one) } }, 'explain');
  const item = el('li', {}, share, el('span', { class: 'subject' }, el('span', { class: 'mono' }, readable(one.subject)), of), count, one.subject.includes('#') ? el('span') : why);
  return { key, share, count, item };
}

function showWho(top) {
  const all = top.rules.flatMap((rule) => rule.subjects.map((subject) => ({ rule, ...subject })));
  all.sort((a, b) => b.hits - a.hits);
  const first = all.slice(0, PEOPLE);
  const highest = first.length ? first[0].hits : 1;
  const nobody = top.by === 'refused' ? 'Nobody was refused.' : 'Nobody has asked.';
  const rows = first.map((one) => {
    const row = personRow(one);
    row.share.style.width = `${Math.max(1, (one.hits / highest) * 100)}%`;
    const about = one.rule.hits > EXACT;
    const told = (hits) => (about ? whole(Number(hits.toPrecision(2))) : whole(hits));
    say(row.count, (about ? '≈ ' : '') + (one.at_least < one.hits ? `${told(one.at_least)}–${told(one.hits)}` : told(one.hits)));
    return row;
  });
  const list = $('who');
  list.className = `plain ${top.by}`;
  people = new Map(rows.map((row) => [row.key, row]));
  lineUp(list, rows.length ? rows.map((row) => row.item) : [el('li', { class: 'empty' }, nobody)]);
  const of = top.instances.length > 1 ? `all ${top.instances.length} instances` : 'this instance';
  const missing = top.whole ? '' : ' The others could not be asked.';
  say($('who-note'), `Hits of ${of} since ${new Date(top.since).toLocaleTimeString()}, ${top.by === 'refused' ? 'refused' : 'admitted or not'}.${missing}`);
  const row = (one, place) => el('tr', {}, el('td', { class: 'mono' }, one.name.slice(0, 8), place === 0 ? el('span', { class: 'tag calm' }, 'this one') : null), el('td', {}, one.version), el('td', { class: 'number' }, rate(one.decided_per_second)), el('td', { class: 'number' }, rate(one.refused_per_second)));
  $('instances').replaceChildren(...top.instances.map(row));
}

for (const input of document.querySelectorAll('input[name=by], input[name=window]')) input.addEventListener('change', lookWho);

// ---- explain

function showDomains(names) {
  const select = $('explain-domain');
  const had = [...select.options].map((option) => option.value);
  if (JSON.stringify(had) === JSON.stringify(names)) return;
  const chosen = select.value;
  select.replaceChildren(...names.map((name) => el('option', { value: name }, name)));
  if (names.includes(chosen)) select.value = chosen;
}

const escaped = (text) => text.replaceAll('%', '%25').replaceAll(',', '%2C');

// The request of a subject: what its rule leaves open is the subject's, the rest is the rule's.
function explainSubject({ rule: of, subject }) {
  const known = shown && shown.rules.find(({ rule }) => rule.domain === of.domain && rule.name === of.rule);
  const parts = subject.split('|').map((part) => part.replaceAll(',', '%2C'));
  const levels = known ? known.rule.descriptor : [];
  const entries = levels.map((level, place) => {
    const bare = levels.slice(place).filter((later) => !later.value).length;
    const is_open = !level.value || parts.length > bare;
    return (is_open && parts.shift()) || `${level.key}=${escaped(level.value)}`;
  });
  explainOf(of.domain, [...entries, ...parts].join(','), true);
}

function explainOf(domain, descriptor, at_once) {
  $('explain-domain').value = domain;
  $('explain-descriptors').value = descriptor;
  if (at_once) explain();
  const calm = matchMedia('(prefers-reduced-motion: reduce)').matches;
  $('explain').scrollIntoView({ behavior: calm ? 'auto' : 'smooth', block: 'center' });
  $('explain-descriptors').focus({ preventScroll: true });
}

async function explain() {
  const lines = $('explain-descriptors').value.split('\n').map((line) => line.trim()).filter(Boolean);
  const query = new URLSearchParams({ domain: $('explain-domain').value, hits: $('explain-hits').value || '1' });
  for (const line of lines) query.append('descriptor', line);
  try {
    showExplained(await ask(`explain?${query}`));
  } catch (error) {
    $('explained').replaceChildren(el('div', { class: 'result refused' }, el('p', {}, 'That could not be explained.'), el('p', {}, error.message)));
  }
}

$('explain').addEventListener('submit', (event) => {
  event.preventDefault();
  explain();
});
$('explain-descriptors').addEventListener('keydown', (event) => {
  if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) explain();
});

const REASONS = {
  no_rule: 'no rule is about it', unlimited: 'nothing limits it', within_limit: 'all limits have room', shadowed: 'a limit has no room, and is in shadow mode',
  exempt: 'it costs nothing', allowed: 'it is on the list of those who are let through', denied: 'it is on the list of those who are refused', banned: 'it is banned',
  over_limit: 'a limit has no room now', never_fits: 'a limit can never hold that many hits', fallback_allow: 'the store does not answer, and the rules say to admit',
  fallback_deny: 'the store does not answer, and the rules say to refuse', fallback_local: 'the store does not answer: by this instance’s share of the limits',
};

function showExplained(told) {
  const headline = `${told.admitted ? 'It would pass' : 'It would be refused'}: ${REASONS[told.reason] || told.reason}.`;
  const decision = told.decision || {};
  const points = ['rule', 'plan', 'limit', 'remaining', 'retry_after'].filter((name) => decision[name] != null).map((name) => `${name.replace('_', ' ')} ${decision[name]}`);
  const result = el('div', { class: told.admitted ? 'result' : 'result refused' }, el('p', {}, headline), points.length ? el('p', {}, points.join(' · ')) : null);
  const ways = told.descriptors.map((way, place) => {
    const lost = way.entries.findIndex((entry) => !entry.found);
    const chain = way.entries.map((entry, at) => {
      const by = entry.matches ? (entry.matches.value ? `${entry.matches.key}=${entry.matches.value}` : `any ${entry.matches.key}`) : null;
      const found = by ? `matches ${by}` : entry.found ? 'stands in the rules' : at === lost ? 'nothing matches it' : 'not looked at';
      return el('li', { class: entry.found ? null : 'lost' }, el('span', { class: 'mono' }, `${entry.key}=${entry.value}`), el('small', {}, found));
    });
    const { rule } = way;
    const status = told.statuses[place];
    const left = !status || !status.limit ? '' : status.admitted ? ` ${whole(status.remaining)} left of ${limitText(status.limit)}.` : ` ${limitText(status.limit)} refuses; room in ${many(status.reset_seconds || 0, 'second')}.`;
    const ends = rule ? `${rule.name} (${rule.file}:${rule.line}): ${ruleText(rule)}.${left}` : lost < 0 ? 'No rule ends here, so nothing limits it.' : 'No rule, so nothing limits it.';
    return el('div', { class: 'way' }, el('ol', { class: 'chain' }, ...chain), el('p', {}, ends));
  });
  const headers = told.headers.length ? el('pre', { tabindex: 0, 'aria-label': 'Headers' }, told.headers.map((header) => `${header.name}: ${header.value}`).join('\n')) : null;
  $('explained').replaceChildren(...[result, ...ways, headers].filter(Boolean));
}

// ---- the token, and going on

$('token').addEventListener('submit', (event) => {
  event.preventDefault();
  sessionStorage.setItem(TOKEN, $('token-text').value.trim());
  $('token-text').value = '';
  both();
});

const both = () => Promise.all([look(), lookWho()]);

async function go() {
  for (;;) {
    if (!document.hidden) await both();
    const every = shown ? shown.every_seconds * 1000 : EVERY_MS;
    await new Promise((next) => setTimeout(next, every));
  }
}
document.addEventListener('visibilitychange', () => {
  if (!document.hidden) both();
});
go();
