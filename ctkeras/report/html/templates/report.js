"use strict";
// Parallel coordinates: which runs are shown. Without this script all of them are.
(function () {
  const chooser = document.querySelector(".chooser");
  if (!chooser) return;
  const share = document.getElementById("best-share");
  const group = document.getElementById("best-group");
  const count = document.getElementById("best-count");
  const lines = document.querySelectorAll(".parallel .run");
  function show() {
    const best = Number(share.value);
    const last = Number(share.max);
    count.textContent = String(best);
    for (const line of lines) {
      const among = Number(line.dataset.r) >= last - best;
      const chosen = group.value === "" || line.dataset.g === group.value;
      line.classList.toggle("off", !(among && chosen));
    }
  }
  share.addEventListener("input", show);
  group.addEventListener("change", show);
  chooser.hidden = false;
  show();
})();
