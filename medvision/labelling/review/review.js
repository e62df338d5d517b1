"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { classes, images, key, csv } = data;
  const $ = (id) => document.getElementById(id);
  const EXCLUDED = -1;
  // Letters that mean nothing else here; classes beyond these are chosen by click.
  const KEYS = [..."123456789", ..."abcdefhlmopqrstvwyz"];
  const FILTERS = {
    all: () => true,
    open: (row) => !(row in state),
    review: (row) => images[row].s === "review",
    rejected: (row) => images[row].s === "rejected",
    auto: (row) => images[row].s === "auto",
    done: (row) => row in state,
  };
  const NAMES = { all: "all", open: "not yet reviewed", review: "for review", rejected: "out of range", auto: "auto", done: "reviewed" };

  let state = {}; // row -> class, or EXCLUDED
  let history = []; // [row, what it was before]
  let shown = images.map((_, row) => row);
  let current = 0; // row
  let showMap = false;
  let inverted = false;
  let keeps = true;
  let unsaved = false;

  // --- what is kept

  try {
    state = read(localStorage.getItem(key));
    localStorage.setItem(key, JSON.stringify(state));
  } catch {
    keeps = false;
  }

  function read(text) {
    const found = {};
    for (const [row, value] of Object.entries(JSON.parse(text || "{}"))) {
      if (row in images && Number.isInteger(value) && value >= EXCLUDED && value < classes.length) found[row] = value;
    }
    return found;
  }

  function keep() {
    unsaved = true;
    if (!keeps) return;
    try {
      localStorage.setItem(key, JSON.stringify(state));
    } catch {
      keeps = false;
    }
  }

  window.addEventListener("beforeunload", (event) => {
    if (!keeps && unsaved) event.preventDefault();
  });

  // --- the queue

  const cells = images.map((image, row) => {
    const cell = document.createElement("button");
    cell.type = "button";
    cell.className = "cell";
    cell.dataset.status = image.s;
    cell.setAttribute("role", "option");
    cell.tabIndex = -1;
    const picture = document.createElement("img");
    picture.alt = "";
    picture.width = picture.height = 100;
    picture.decoding = "async";
    const text = document.createElement("span");
    cell.append(picture, text);
    cell.addEventListener("click", () => go(row));
    return cell;
  });
  // A picture is decoded when its cell comes near the view, and only then.
  const near = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      const row = Number(entry.target.dataset.row);
      entry.target.firstChild.src = uri(images[row].t);
      near.unobserve(entry.target);
    }
  }, { rootMargin: "400px" });
  cells.forEach((cell, row) => {
    cell.dataset.row = row;
    near.observe(cell);
    paint(row);
  });

  function uri(picture) {
    return `data:image/${picture.startsWith("iVBOR") ? "png" : "jpeg"};base64,${picture}`;
  }

  function label(row) {
    return row in state ? state[row] : images[row].l;
  }

  function paint(row) {
    const cell = cells[row];
    const decided = row in state;
    const name = label(row) === EXCLUDED ? "excluded" : classes[label(row)];
    cell.classList.toggle("done", decided);
    cell.classList.toggle("corrected", decided && state[row] !== images[row].l && state[row] !== EXCLUDED);
    cell.classList.toggle("excluded", decided && state[row] === EXCLUDED);
    cell.lastChild.textContent = decided ? name : `${percent(images[row].p[images[row].l])} ${name}`;
    cell.setAttribute("aria-label", `${images[row].n}: ${name}${decided ? ", reviewed" : `, ${images[row].s}`}`);
  }

  function filter() {
    const chosen = FILTERS[$("filter").value];
    shown = images.map((_, row) => row).filter(chosen);
    $("grid").replaceChildren(...shown.map((row) => cells[row]));
    $("nothing").hidden = shown.length > 0;
    if (shown.length && !shown.includes(current)) go(shown[0]);
  }

  // --- the image under review

  const buttons = classes.map((name, index) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "class";
    const key = document.createElement("kbd");
    key.textContent = KEYS[index] || " ";
    const text = document.createElement("span");
    text.className = "name";
    text.textContent = name;
    const set = document.createElement("span");
    set.className = "set";
    const share = document.createElement("span");
    share.className = "percent";
    const fill = document.createElement("span");
    fill.className = "fill";
    button.append(key, text, set, share, fill);
    button.addEventListener("click", () => decide(index));
    return button;
  });
  $("classes").append(...buttons);

  function percent(share) {
    return share >= 0.9995 ? "100 %" : `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;
  }

  function go(row) {
    cells[current].setAttribute("aria-selected", "false");
    cells[current].tabIndex = -1;
    current = row;
    draw();
    cells[row].setAttribute("aria-selected", "true");
    cells[row].tabIndex = 0;
    cells[row].focus({ preventScroll: true });
    cells[row].scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  function draw() {
    const image = images[current];
    const hasMap = Boolean(image.g);
    $("picture").src = uri(showMap && hasMap ? image.g : image.b || image.t);
    $("picture").alt = image.n;
    $("picture").classList.toggle("inverted", inverted);
    $("position").textContent = `${shown.indexOf(current) + 1} of ${shown.length}`;
    $("original").textContent = image.n;
    $("original").href = image.u;
    $("reason").replaceChildren(word(image.s), image.r ? `: ${image.r}` : ": the label can stand");
    $("badge").textContent = verdict(current);
    buttons.forEach((button, index) => {
      button.classList.toggle("chosen", label(current) === index);
      button.setAttribute("aria-pressed", String(label(current) === index));
      button.children[2].textContent = image.c && image.c.includes(index) ? "in the set" : "";
      button.children[3].textContent = percent(image.p[index]);
      button.children[4].style.width = `${100 * image.p[index]}%`;
    });
    $("map").disabled = !hasMap;
    $("map").setAttribute("aria-pressed", String(showMap && hasMap));
    $("invert").setAttribute("aria-pressed", String(inverted));
    $("undo").disabled = history.length === 0;
    $("hint").textContent = hasMap ? "" : data.no_map;
    const done = Object.keys(state).length;
    const corrected = Object.entries(state).filter(([row, value]) => value !== EXCLUDED && value !== images[row].l).length;
    $("count").textContent = `${done} of ${images.length} reviewed${corrected ? `, ${corrected} corrected` : ""}`;
    $("bar").style.width = `${(100 * done) / images.length}%`;
    $("kept").textContent = keeps
      ? "Kept in this browser until you download."
      : "This browser keeps nothing between visits: download before you close the page.";
    $("download").disabled = done === 0;
  }

  function word(status) {
    const mark = document.createElement("b");
    mark.className = status;
    mark.textContent = status;
    return mark;
  }

  function verdict(row) {
    if (!(row in state)) return `model: ${classes[images[row].l]}`;
    if (state[row] === EXCLUDED) return "excluded";
    return state[row] === images[row].l ? `confirmed: ${classes[state[row]]}` : `corrected: ${classes[state[row]]}`;
  }

  // --- decisions

  function decide(value) {
    if (value >= classes.length) return;
    history.push([current, state[current]]);
    state[current] = value;
    keep();
    paint(current);
    const place = shown.indexOf(current);
    go(shown[Math.min(place + 1, shown.length - 1)]);
  }

  function undo() {
    if (!history.length) return;
    const [row, before] = history.pop();
    if (before === undefined) delete state[row];
    else state[row] = before;
    keep();
    paint(row);
    if (!shown.includes(row)) {
      $("filter").value = "all";
      filter();
    }
    go(row);
  }

  function step(by) {
    const place = shown.indexOf(current) + by;
    if (place >= 0 && place < shown.length) go(shown[place]);
  }

  function nextOpen() {
    const place = shown.indexOf(current);
    const order = [...shown.slice(place + 1), ...shown.slice(0, place + 1)];
    const row = order.find((one) => !(one in state));
    if (row !== undefined) go(row);
  }

  function toggleMap() {
    showMap = !showMap;
    look();
  }

  function toggleInvert() {
    inverted = !inverted;
    look();
  }

  function look() {
    draw();
    cells[current].focus({ preventScroll: true }); // so that Enter confirms again
  }

  // --- the CSV

  function quoted(text) {
    return /[",\r\n\t;]|^\s|\s$/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  }

  function table() {
    const rows = [["image", "label", "predicted", "review"]];
    images.forEach((image, row) => {
      if (!(row in state) || state[row] === EXCLUDED) return;
      const verdict = state[row] === image.l ? "confirmed" : "corrected";
      rows.push([image.i, classes[state[row]], classes[image.l], verdict]);
    });
    return rows.map((row) => `${row.map(quoted).join(",")}\n`).join("");
  }

  function download() {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([table()], { type: "text/csv" }));
    link.download = csv;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    unsaved = false;
  }

  // --- the hands

  const ACTIONS = {
    ArrowRight: () => step(1),
    ArrowDown: () => step(columns()),
    ArrowLeft: () => step(-1),
    ArrowUp: () => step(-columns()),
    j: () => step(1),
    k: () => step(-1),
    n: nextOpen,
    u: undo,
    x: () => decide(EXCLUDED),
    g: toggleMap,
    i: toggleInvert,
    Enter: () => decide(label(current) === EXCLUDED ? images[current].l : label(current)),
    "?": () => $("help").showModal(),
  };

  function columns() {
    const width = $("grid").clientWidth;
    return getComputedStyle($("grid")).display === "grid" ? Math.max(1, Math.floor((width + 8) / 112)) : 1;
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
    const target = event.target;
    // Elsewhere Enter presses the button that has the focus, and letters and arrows choose in the list.
    if (target instanceof HTMLSelectElement) return;
    if (event.key === "Enter" && target.matches("button:not(.cell), a, summary")) return;
    const action = ACTIONS[event.key] || (KEYS.includes(event.key) ? () => decide(KEYS.indexOf(event.key)) : null);
    if (!action) return;
    event.preventDefault();
    // A key held down may walk through images, not decide on them.
    if (event.repeat && !event.key.startsWith("Arrow") && event.key !== "j" && event.key !== "k") return;
    action();
  });

  $("confirm").addEventListener("click", ACTIONS.Enter);
  $("exclude").addEventListener("click", ACTIONS.x);
  $("undo").addEventListener("click", undo);
  $("map").addEventListener("click", toggleMap);
  $("invert").addEventListener("click", toggleInvert);
  $("download").addEventListener("click", download);
  $("help-button").addEventListener("click", ACTIONS["?"]);
  $("filter").addEventListener("change", filter);
  for (const [value, name] of Object.entries(NAMES)) {
    const count = images.filter((_, row) => FILTERS[value](row)).length;
    if (count || value === "all" || value === "open" || value === "done") {
      $("filter").append(new Option(["open", "done"].includes(value) ? name : `${name} (${count})`, value));
    }
  }

  if (images.length === 0) {
    document.querySelector("main").hidden = true;
    $("download").disabled = true;
    return;
  }
  filter();
  const open = shown.find((row) => !(row in state));
  go(open === undefined ? 0 : open);
})();
