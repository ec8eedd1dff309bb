// Draws what the instances say on /live, and runs the buttons.

import { byId } from "./tools.js";
import { eventHappened, layOut, showIn } from "./picture.js";
import { measureAll, show } from "./figures.js";
import { countTotals, showKey, showProduct, tell } from "./looks.js";
import { buttons } from "./buttons.js";

let isFirst = true;

/** The introduction of a shop whose services do not use the crate. */
const OTHER_WAYS = {
  "by-hand": "Seven services look up what they need in moka, then in one Redis for all, and only then in their database, "
    + "as in a tutorial. A change deletes the copy of its instance and the one in Redis; the other instances keep theirs, "
    + "for up to a minute.",
  "without-cache": "Seven services that have no caches: each reads its database each time.",
};

function showWay(way) {
  if (!OTHER_WAYS[way]) return;
  // The style sheet hides what is about the caches of the crate.
  document.body.dataset.way = way;
  byId("intro").textContent = OTHER_WAYS[way];
}

function reported({ way, reports }) {
  measureAll(reports);
  layOut(reports);
  showIn(reports);
  show(reports);
  if (isFirst) {
    isFirst = false;
    showWay(way);
    if (way === "larder") {
      showKey();
      countTotals();
    }
  }
}

const live = new EventSource("/live");
live.onmessage = ({ data }) => {
  const message = JSON.parse(data);
  if (message.kind === "reports") return reported(message);
  eventHappened(message);
  tell(message);
};
live.onerror = () => { byId("state").textContent = "this gateway does not answer; trying again …"; };

buttons();
showProduct(7);
