"use strict";
// One record is shown at a time. Every change is kept in the browser under the annotator's name; what leaves the page
// leaves by the download. Texts and answers come as data and reach the page by textContent alone.
(() => {
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("data").textContent);
  const records = data.records;
  const deciding = byId("deciding");
  const correction = byId("correction");
  const comment = byId("comment");

  let annotator = "";
  let answers = []; // by record; a hole where nothing was said
  let current = 0;
  let shownAt = 0; // when the current record came up
  let shownAnswer = ""; // as the box gives it back, which is not always as it was put in
  let warned = -1; // the record whose missing faults were asked for

  // What stays in the browser

  const storage = openStorage();

  function openStorage() {
    try {
      const found = window.localStorage;
      found.setItem(data.key, "");
      found.removeItem(data.key);
      return found;
    } catch {
      notify("This browser keeps nothing once the page is closed: download your answers before you leave.");
      return null;
    }
  }

  function notify(words) {
    byId("notice").textContent = words;
    byId("notice").hidden = false;
  }

  function keep(name, value) {
    if (!storage) return;
    try {
      if (value === null) storage.removeItem(`${data.key}/${name}`);
      else storage.setItem(`${data.key}/${name}`, JSON.stringify(value));
    } catch {
      notify("The browser's storage is full: download your answers before you leave.");
    }
  }

  function kept(name) {
    const text = storage && storage.getItem(`${data.key}/${name}`);
    return text ? JSON.parse(text) : null;
  }

  let pending = false; // answers that no download holds

  function setPending(value) {
    pending = value;
    keep(`${annotator}/pending`, value || null);
  }

  function keepAnswer(index) {
    keep(`${annotator}/${index}`, answers[index] ?? null);
    setPending(true);
  }

  function restore() {
    answers = records.map((_, index) => kept(`${annotator}/${index}`) ?? undefined);
    pending = Boolean(kept(`${annotator}/pending`));
  }

  // Who answers

  function askName() {
    byId("name").value = annotator;
    byId("who").hidden = false;
    byId("record").hidden = byId("finished").hidden = true;
    byId("name").focus();
  }

  // `given` are answers that were made under another name.
  function start(name, given) {
    annotator = name;
    keep("annotator", name);
    restore();
    if (given) {
      answers = given;
      given.forEach((answer, index) => answer && keepAnswer(index));
    }
    byId("rename").textContent = name;
    byId("rename").title = `You answer as ${name}. Change the name`;
    byId("rename").hidden = byId("standing").hidden = byId("download").hidden = false;
    byId("who").hidden = true;
    byId("guidelines").open = false;
    count();
    const next = nextOpen(-1);
    if (next < 0) finish();
    else show(next);
  }

  byId("who").addEventListener("submit", (event) => {
    event.preventDefault();
    const name = byId("name").value.trim();
    if (!name) return;
    const given = answers.some(Boolean);
    if (!annotator || !given || name === annotator) {
      start(name);
      return;
    }
    const dialog = byId("other");
    dialog.returnValue = "";
    dialog.addEventListener("close", () => {
      if (dialog.returnValue === "mine") start(name, answers);
      else if (dialog.returnValue === "theirs") start(name);
    }, { once: true });
    dialog.showModal();
  });
  byId("rename").addEventListener("click", askName);

  // The record

  function make(tag, words, kind) {
    const element = document.createElement(tag);
    element.textContent = words;
    element.dir = "auto";
    if (kind) element.className = kind;
    return element;
  }

  function shownOf(record) {
    if (record.items.length) {
      const list = document.createElement("ul");
      list.append(...record.items.map((item) => make("li", item)));
      return list;
    }
    if (record.fields.length) {
      const table = document.createElement("table");
      for (const [name, value] of record.fields) {
        const row = table.insertRow();
        row.append(make("th", name), make("td", value));
      }
      return table;
    }
    if (record.answer.trim() === "[]") return make("span", "an empty list", "none");
    return record.prose || record.answer.length > 60 ? make("span", record.answer) : make("span", record.answer, "chip");
  }

  function show(index) {
    current = index;
    const record = records[index];
    byId("instruction").textContent = record.instruction;
    byId("form").textContent = record.form;
    byId("text").replaceChildren(...record.parts.map(([words, marked]) => (marked ? make("mark", words) : words)));
    byId("answer").replaceChildren(shownOf(record));
    byId("position").value = index + 1;
    fill(record, answers[index]);
    byId("finished").hidden = true;
    byId("record").hidden = false;
    byId("record").focus({ preventScroll: true });
    window.scrollTo(0, 0);
    deciding.scrollTop = 0;
    shownAt = performance.now();
  }

  function fill(record, answer) {
    deciding.reset();
    correction.value = record.answer;
    shownAnswer = correction.value;
    if (answer) {
      check("verdict", [answer.verdict]);
      check("fault", answer.faults);
      check("rating", [String(answer.rating)]);
      correction.value = answer.correction ?? record.answer;
      comment.value = answer.comment ?? "";
    }
    showState();
  }

  function check(name, values) {
    for (const box of deciding.querySelectorAll(`[name=${name}]`)) box.checked = values.includes(box.value);
  }

  function chosen(name) {
    return [...deciding.querySelectorAll(`[name=${name}]:checked`)].map((box) => box.value);
  }

  const STATES = { submitted: "Saved", draft: "Not saved", discarded: "Skipped" };

  function showState() {
    const status = answers[current]?.status;
    byId("state").textContent = STATES[status] ?? "";
    byId("state").className = `state ${status ?? ""}`;
    byId("wrong").hidden = chosen("verdict")[0] !== "wrong";
    byId("changed").textContent = correction.value === shownAnswer ? "as the model gave it" : "changed";
  }

  // What was said of it

  function said() {
    const verdict = chosen("verdict")[0] ?? null;
    const rating = chosen("rating")[0];
    const wrong = verdict === "wrong";
    return {
      verdict,
      faults: wrong ? chosen("fault") : [],
      rating: rating ? Number(rating) : null,
      correction: wrong && correction.value !== shownAnswer ? correction.value : null,
      comment: comment.value.trim() || null,
    };
  }

  function keepSaid(status) {
    answers[current] = {
      ...said(),
      status,
      given_at: new Date().toISOString(),
      seconds: answers[current]?.seconds ?? null,
    };
    keepAnswer(current);
  }

  // A change of a saved answer is saved; anything else waits for the word.
  function changed() {
    const { verdict, faults, rating, correction: corrected, comment: words } = said();
    if (answers[current]?.status === "submitted" && verdict) keepSaid("submitted");
    else if (verdict || faults.length || rating || corrected || words) keepSaid("draft");
    else if (answers[current]) {
      answers[current] = undefined;
      keepAnswer(current);
    }
    showState();
    count();
  }

  function save(status) {
    const { verdict, faults } = said();
    if (status === "submitted" && !verdict) {
      say("Choose a verdict first: 1, 2 or 3.");
      return;
    }
    if (status === "submitted" && verdict === "wrong" && !faults.length && warned !== current) {
      warned = current;
      say("Say what is wrong, or save again to leave it open.");
      return;
    }
    keepSaid(status);
    answers[current].seconds ??= (performance.now() - shownAt) / 1000;
    keepAnswer(current);
    const counts = count();
    say(`${STATES[status]}. ${counts.done} of ${records.length} done.`);
    const next = nextOpen(current);
    if (next < 0) finish();
    else show(next);
  }

  const isOpen = (index) => !answers[index] || answers[index].status === "draft";

  function nextOpen(from) {
    for (let step = 1; step <= records.length; step += 1) {
      const index = (from + step) % records.length;
      if (isOpen(index)) return index;
    }
    return -1;
  }

  function go(index) {
    if (index >= 0 && index < records.length) show(index);
    else if (index >= records.length && nextOpen(-1) < 0) finish();
  }

  function goOpen() {
    const next = nextOpen(current);
    if (next >= 0) show(next);
  }

  function finish() {
    const counts = count();
    byId("summary").textContent = records.length
      ? `${counts.done} answered, ${counts.skipped} skipped. Download the answers and send the file back.`
      : "";
    byId("download-finished").hidden = byId("look-again").hidden = !records.length;
    byId("record").hidden = true;
    byId("finished").hidden = false;
    byId("finished").focus();
  }

  function count() {
    const given = answers.filter(Boolean);
    const done = given.filter((answer) => answer.status === "submitted");
    const skipped = given.filter((answer) => answer.status === "discarded").length;
    const seconds = done.map((answer) => answer.seconds).filter((value) => value !== null).sort((a, b) => a - b);
    const words = [`${done.length} done`, `${records.length - done.length - skipped} left`];
    if (skipped) words.splice(1, 0, `${skipped} skipped`);
    if (seconds.length) words.push(`${seconds[Math.floor(seconds.length / 2)].toFixed(1)} s each`);
    byId("counts").textContent = words.join(" · ");
    byId("progress").value = done.length + skipped;
    return { done: done.length, skipped };
  }

  function say(words) {
    byId("status").textContent = words;
  }

  // The download

  function download() {
    const given = answers.flatMap((answer, index) => {
      if (!answer) return [];
      const { seconds, ...rest } = answer;
      return [{ sample_id: records[index].sample_id, version: records[index].version, ...rest }];
    });
    const { title, round } = data;
    const content = JSON.stringify({ stillhouse_review: 1, title, round, annotator, answers: given }, null, 1);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([content], { type: "application/json" }));
    link.download = `${[title, "round", round, annotator].join("-").replace(/[^\p{L}\p{N}_-]+/gu, "-")}.json`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    setPending(false);
    say(`${given.length} answers downloaded as ${link.download}.`);
  }

  window.addEventListener("beforeunload", (event) => {
    if (pending) event.preventDefault();
  });
  // Another tab with the same round: its answers are the newer ones.
  window.addEventListener("storage", (event) => {
    if (!annotator || !event.key?.startsWith(`${data.key}/${annotator}/`)) return;
    restore();
    count();
  });

  // Hands

  deciding.addEventListener("submit", (event) => {
    event.preventDefault();
    save("submitted");
  });
  deciding.addEventListener("input", changed);
  byId("skip").addEventListener("click", () => save("discarded"));
  byId("previous").addEventListener("click", () => go(current - 1));
  byId("next").addEventListener("click", () => go(current + 1));
  byId("position").addEventListener("change", () => {
    const wanted = Number(byId("position").value);
    if (records[wanted - 1]) show(wanted - 1);
    else byId("position").value = current + 1;
  });
  byId("open-help").addEventListener("click", () => byId("help").showModal());
  byId("download").addEventListener("click", download);
  byId("download-finished").addEventListener("click", download);
  byId("look-again").addEventListener("click", () => go(records.length - 1));

  function toggle(box, on = !box.checked) {
    box.checked = on;
    changed();
  }

  function choose(name, value) {
    const box = deciding.querySelector(`[name=${name}][value="${value}"]`);
    if (box) toggle(box, true);
  }

  function markWrong() {
    if (!chosen("verdict").length) choose("verdict", "wrong");
    return chosen("verdict")[0] === "wrong";
  }

  function enter(box) {
    box.focus();
    box.setSelectionRange(box.value.length, box.value.length);
  }

  const verdicts = [...deciding.querySelectorAll("[name=verdict]")].map((box) => box.value);
  const commands = {
    arrowleft: () => go(current - 1),
    arrowright: () => go(current + 1),
    k: () => go(current - 1),
    j: () => go(current + 1),
    n: goOpen,
    s: () => save("discarded"),
    e: () => markWrong() && enter(correction),
    m: () => enter(comment),
    enter: () => save("submitted"),
  };
  for (const name of verdicts) commands[name[0]] = () => choose("verdict", name);
  for (const box of deciding.querySelectorAll("[name=fault]")) {
    commands[box.dataset.key] = () => markWrong() && toggle(box);
  }
  const everywhere = {
    "?": () => byId("help").showModal(),
    d: download,
    g: () => { byId("guidelines").open = !byId("guidelines").open; },
  };

  // Digits go by their place on the keyboard: with Shift, or on a French one, they have other characters.
  function digitCommand(event) {
    const digit = /^(?:Digit|Numpad)([1-9])$/.exec(event.code)?.[1] ?? (/^[1-9]$/.test(event.key) ? event.key : null);
    if (!digit || event.key === "?") return null;
    return event.shiftKey ? () => choose("rating", digit) : () => verdicts[digit - 1] && choose("verdict", verdicts[digit - 1]);
  }

  function commandOf(event) {
    const key = event.key.toLowerCase();
    if (everywhere[key]) return everywhere[key];
    if (!byId("finished").hidden) return key === "k" || key === "arrowleft" ? () => go(records.length - 1) : null;
    return byId("record").hidden ? null : digitCommand(event) ?? commands[key];
  }

  function keyInBox(event) {
    if (event.key === "Escape") byId("record").focus();
    if (event.key !== "Enter" || event.shiftKey || !deciding.contains(event.target)) return;
    event.preventDefault();
    save("submitted");
  }

  document.addEventListener("keydown", (event) => {
    if (event.isComposing || document.querySelector("dialog[open]")) return;
    if (event.target.matches("textarea, input[type=text], input[type=number]")) {
      keyInBox(event);
      return;
    }
    const control = event.key === "Enter" && event.target.closest("button, summary");
    if (event.ctrlKey || event.metaKey || event.altKey || control || !annotator) return;
    const command = commandOf(event);
    if (!command) return;
    event.preventDefault();
    command();
  });

  const known = kept("annotator");
  if (known) start(known);
  else {
    byId("guidelines").open = window.innerWidth > 700;
    askName();
  }
})();
