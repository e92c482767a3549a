"use strict";
// A participant's way through a study: introduction, pairs one after another, download.
(() => {
  const study = JSON.parse(document.getElementById("study").textContent);
  const $ = (id) => document.getElementById(id);
  const COLUMNS = ["study", "participant", "pair", "side", "choice", "seconds", "check"];
  const PATIENCE = 3000; // ms of playing after which a choice may be made before the end
  const PAUSE = 400; // ms between two rounds of the videos
  const still = matchMedia("(prefers-reduced-motion: reduce)");

  // ---- what this participant is shown; the same draw as in drawing.py

  function mix(text) {
    let h = 2166136261;
    for (const letter of text) h = Math.imul(h ^ letter.charCodeAt(0), 16777619);
    h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
    h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
    return (h ^ (h >>> 16)) >>> 0;
  }

  function draw(participant) {
    const { seed, each, pairs, checks } = study;
    const rank = (what, id) => mix(`${seed}|${participant}|${what}|${id}`);
    const ranked = (what, list) =>
      [...list].sort((p, q) => rank(what, p.id) - rank(what, q.id) || (p.id < q.id ? -1 : 1));
    const numbered = /^[1-9][0-9]{0,8}$/.test(participant);
    const turn = numbered ? Number(participant) - 1 : mix(`${seed}|${participant}|start`);
    const start = (turn * each) % pairs.length;
    const shown = [];
    for (let k = 0; k < Math.min(each, pairs.length); k++) {
      shown.push({ ...pairs[(start + k) % pairs.length], check: 0 });
    }
    shown.push(...checks.map((pair) => ({ ...pair, check: 1 })));
    const left = new Map(ranked("side", shown).map((pair, place) => [pair.id, "ab"[place % 2]]));
    return ranked("order", shown).map((pair) => ({ ...pair, left: left.get(pair.id) }));
  }

  // ---- what the browser keeps: the answers so far

  const asked = new URLSearchParams(location.search).get("participant") || "";
  const given = /^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$/.test(asked) ? asked : "";
  const place = `gen1-study:${study.id}:${given}`;

  function newState() {
    const bytes = crypto.getRandomValues(new Uint8Array(6));
    const random = "p" + [...bytes].map((b) => b.toString(16).padStart(2, "0")).join("");
    return { participant: given || random, answers: [] };
  }

  function load() {
    try {
      const kept = JSON.parse(localStorage.getItem(place));
      if (kept && kept.participant && Array.isArray(kept.answers)) return kept;
    } catch {
      // no storage, or not ours
    }
    return newState();
  }

  function keep() {
    try {
      localStorage.setItem(place, JSON.stringify(state));
      return true;
    } catch {
      return false;
    }
  }

  let state = load();
  let trials = draw(state.participant);

  // ---- videos: three that start together and loop together

  let round = null; // what plays now: { videos, timer, began, ready, failed }
  let upcoming = null; // { id, videos }, which load while the pair before is shown

  function prepare(trial) {
    const names = {
      source: trial.source,
      left: trial.left === "a" ? trial.a : trial.b,
      right: trial.left === "a" ? trial.b : trial.a,
    };
    const videos = Object.entries(names).map(([side, name]) => {
      const video = document.createElement("video");
      Object.assign(video, { muted: true, playsInline: true, preload: "auto" });
      video.disableRemotePlayback = true;
      const label = { source: "source", left: "video 1", right: "video 2" }[side];
      video.setAttribute("aria-label", label);
      video.src = `videos/${name}`;
      video.dataset.side = side;
      return video;
    });
    return { id: trial.id, videos };
  }

  function stopRound() {
    if (!round) return;
    clearTimeout(round.timer);
    clearTimeout(round.patience);
    for (const video of round.videos) {
      video.pause();
      video.removeAttribute("src"); // frees its decoder: phones have few
      video.load();
      video.remove();
    }
    round = null;
  }

  function startRound(trial) {
    stopRound();
    const own = upcoming && upcoming.id === trial.id ? upcoming : prepare(trial);
    upcoming = null;
    const now = { ...own, timer: 0, patience: 0, began: 0, open: false };
    round = now;
    let waiting = now.videos.length;
    for (const video of now.videos) {
      const one = () => {
        if (now !== round) return;
        video.classList.toggle("coarse", video.videoWidth < 128);
        if (video.dataset.side === "left") {
          $("stage").classList.toggle("wide", video.videoWidth > 1.15 * video.videoHeight);
        }
        if (--waiting) return;
        loadNext();
        if (still.matches) say("Press Replay to play the videos.");
        else play();
      };
      if (video.readyState >= 3) queueMicrotask(one);
      else video.addEventListener("canplay", one, { once: true });
      video.addEventListener("ended", () => now === round && ended(now));
      video.addEventListener("error", () => now === round && fail());
      if (video.error) queueMicrotask(() => now === round && fail());
      document.querySelector(`figure.${video.dataset.side} .screen`).replaceChildren(video);
    }
    say("Loading …");
  }

  function play() {
    const now = round;
    if (!now || now.videos.some((video) => video.readyState < 2)) return;
    clearTimeout(now.timer);
    for (const video of now.videos) video.currentTime = 0;
    Promise.all(now.videos.map((video) => video.play())).then(
      () => {
        if (now !== round || now.began) return;
        now.began = performance.now();
        now.patience = setTimeout(() => now === round && open(now), PATIENCE);
        if (!now.open) say("Watch both videos …");
      },
      (error) => {
        if (now === round && error.name === "NotAllowedError") say("Press Replay to play the videos.");
      },
    );
  }

  function ended(now) {
    if (now.videos.some((video) => !video.ended)) return; // the shorter waits for the longer
    open(now);
    if (!still.matches && !document.hidden) now.timer = setTimeout(play, PAUSE);
  }

  function open(now) {
    if (now.open) return;
    now.open = true;
    say("");
    for (const button of document.querySelectorAll(".choice")) {
      button.setAttribute("aria-disabled", "false");
    }
  }

  function fail() {
    $("broken").hidden = false;
    say("");
  }

  function loadNext() {
    const next = trials[state.answers.length + 1];
    if (next && !upcoming) upcoming = prepare(next);
  }

  document.addEventListener("visibilitychange", () => {
    if (!document.hidden && round && !still.matches) play();
  });

  // ---- screens

  function show(name) {
    for (const screen of ["intro", "trial", "end"]) $(screen).hidden = screen !== name;
  }

  function say(text) {
    $("state").textContent = text;
  }

  function next() {
    const done = state.answers.length;
    if (done >= trials.length) return finish();
    show("trial");
    const trial = trials[done];
    $("progress").textContent = `${done + 1} of ${trials.length}`;
    $("bar").setAttribute("aria-valuemax", trials.length);
    $("bar").setAttribute("aria-valuenow", done);
    $("bar").firstElementChild.style.width = `${(100 * done) / trials.length}%`;
    $("caption").textContent = trial.caption;
    $("broken").hidden = true;
    $("back").setAttribute("aria-disabled", String(done === 0));
    for (const button of document.querySelectorAll(".choice")) {
      button.setAttribute("aria-disabled", "true");
    }
    startRound(trial);
    $("question").focus({ preventScroll: true });
  }

  function answer(side) {
    const trial = trials[state.answers.length];
    if (!trial || !round || (side !== "none" && !round.open)) return;
    const other = trial.left === "a" ? "b" : "a";
    state.answers.push({
      study: study.id,
      participant: state.participant,
      pair: trial.id,
      side,
      choice: side === "none" ? "none" : side === "left" ? trial.left : other,
      seconds: round.began ? Math.round((performance.now() - round.began) / 100) / 10 : 0,
      check: trial.check,
    });
    keep();
    next();
  }

  function back() {
    if ($("trial").hidden || !state.answers.length) return;
    state.answers.pop();
    upcoming = null;
    keep();
    next();
  }

  function finish() {
    stopRound();
    show("end");
    const all = state.answers.length;
    $("done").textContent = `All ${all} answers are given. Please download them now.`;
    document.querySelector("#end h1").focus();
  }

  function download(type, ending, text) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = `study-${study.id}-${state.participant}.${ending}`;
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    $("anew").hidden = false;
  }

  // ---- controls

  $("begin").addEventListener("click", next);
  $("back").addEventListener("click", back);
  $("replay").addEventListener("click", play);
  $("skip").addEventListener("click", () => answer("none"));
  for (const button of document.querySelectorAll(".choice")) {
    button.addEventListener("click", () => answer(button.dataset.side));
  }
  $("csv").addEventListener("click", () => {
    const lines = state.answers.map((row) => COLUMNS.map((name) => row[name]).join(","));
    download("text/csv", "csv", [COLUMNS.join(","), ...lines].join("\r\n") + "\r\n");
  });
  $("json").addEventListener("click", () => {
    download("application/json", "json", JSON.stringify({ answers: state.answers }, null, 1) + "\n");
  });
  $("anew").addEventListener("click", () => {
    if (!confirm("Remove these answers from this browser, and begin anew?")) return;
    state = newState();
    trials = draw(state.participant);
    keep();
    introduce();
  });

  const KEYS = { 1: "left", ArrowLeft: "left", 2: "right", ArrowRight: "right" };
  document.addEventListener("keydown", (event) => {
    if ($("trial").hidden || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
    const onButton = event.target.tagName === "BUTTON";
    if (event.key in KEYS) answer(KEYS[event.key]);
    else if (event.key === "r" || event.key === "R" || (event.key === " " && !onButton)) play();
    else if (event.key === "Backspace") back();
    else return;
    event.preventDefault();
  });

  function introduce() {
    show("intro");
    $("anew").hidden = true;
    $("count").textContent = trials.length === 1 ? "one pair" : `${trials.length} pairs of videos`;
    $("participant").textContent = state.participant;
    $("begin").textContent = state.answers.length ? "Go on" : "Begin";
  }

  $("title").textContent = document.title;
  $("asked").textContent = study.question;
  $("question").textContent = study.question;
  $("unkept").hidden = keep();
  if (state.answers.length >= trials.length) finish();
  else introduce();
})();
