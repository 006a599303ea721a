// Filter and order the cards; without JavaScript the page shows them all, as chosen.
(() => {
  "use strict";
  const form = document.querySelector("form.filter");
  const cards = [...document.querySelectorAll("article.card")];
  const sections = [...document.querySelectorAll("section.layer")];
  const chosen = new Map(cards.map((card, index) => [card, index]));
  const kindOf = (card) => card.dataset.type || card.dataset.status.replace("_", " ");
  const orders = {
    "": (a, b) => chosen.get(a) - chosen.get(b),
    // Latents without a label have F1 -1 and go last.
    worst: (a, b) => rank(a) - rank(b) || chosen.get(a) - chosen.get(b),
    fires: (a, b) => b.dataset.fires - a.dataset.fires,
  };
  const rank = (card) => (card.dataset.f1 < 0 ? 2 : Number(card.dataset.f1));

  function apply() {
    const { layer, kind, verdict, order, text } = form.elements;
    const wanted = text.value.toLowerCase();
    let shown = 0;
    for (const card of cards) {
      card.hidden =
        (layer.value && card.dataset.layer !== layer.value) ||
        (kind.value && kindOf(card) !== kind.value) ||
        (verdict?.value && card.dataset.verdict !== verdict.value) ||
        (wanted && !card.textContent.toLowerCase().includes(wanted));
      shown += !card.hidden;
    }
    for (const section of sections) {
      const mine = cards.filter((card) => section.contains(card)).sort(orders[order.value]);
      section.append(...mine);
      section.hidden = mine.every((card) => card.hidden);
    }
    form.querySelector("output").textContent = `${shown} of ${cards.length}`;
  }

  form.hidden = false;
  form.addEventListener("input", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  apply();
})();
