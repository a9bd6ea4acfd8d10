"use strict";
// Asks every few seconds whether something of the overview has moved, and exchanges that part. Without it the page is
// as complete, and moves when it is loaded again.
(() => {
  const part = document.getElementById("now");
  const state = document.getElementById("live");
  if (!part || !window.fetch) return;
  const PAUSE = 10000, LONGEST = 300000;
  let tag = `"${part.dataset.tag}"`, pause = PAUSE;

  const say = (text) => { state.textContent = text; };
  const opened = () => [...part.querySelectorAll("details[open]")].map((one) => one.id);

  function exchange(text) {
    const fresh = new DOMParser().parseFromString(text, "text/html");
    const open = opened(), before = part.querySelector("[data-sentence]")?.dataset.sentence;
    part.replaceChildren(...fresh.body.childNodes);
    for (const id of open) document.getElementById(id)?.setAttribute("open", "");
    const sentence = part.querySelector("[data-sentence]")?.dataset.sentence;
    if (sentence && sentence !== before) document.getElementById("said").textContent = sentence;
  }

  async function look() {
    // Whoever stands in that part with the keyboard, or does not look at all, is not disturbed.
    if (!document.hidden && !part.contains(document.activeElement)) {
      try {
        const answer = await fetch(part.dataset.address, { headers: { "If-None-Match": tag }, cache: "no-store" });
        if (answer.status === 401) return say("Logged out: load the page again.");
        if (answer.status === 200) {
          exchange(await answer.text());
          tag = answer.headers.get("ETag") || tag;
        }
        pause = answer.ok || answer.status === 304 ? PAUSE : Math.min(2 * pause, LONGEST);
        say(answer.ok || answer.status === 304 ? "Kept up to date." : "The server is busy: it will be asked again.");
      } catch {
        pause = Math.min(2 * pause, LONGEST);
        say("The server does not answer: it will be asked again.");
      }
    }
    setTimeout(look, pause);
  }

  say("Kept up to date.");
  setTimeout(look, PAUSE);
})();
