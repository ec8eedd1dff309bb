// Draws what the instances say on /live, and runs the buttons.

import { byId } from "./tools.js";
import { eventHappened, layOut, showIn } from "./picture.js";
import { measureAll, show } from "./figures.js";
import { countTotals, showKey, showProduct, tell } from "./looks.js";
import { buttons } from "./buttons.js";

let isFirst = true;

function reported(reports) {
  measureAll(reports);
  layOut(reports);
  showIn(reports);
  show(reports);
  if (isFirst) {
    isFirst = false;
    showKey();
  }
}

const live = new EventSource("/live");
live.onmessage = ({ data }) => {
  const message = JSON.parse(data);
  if (message.kind === "reports") return reported(message.reports);
  eventHappened(message);
  tell(message);
};
live.onerror = () => { byId("state").textContent = "this gateway does not answer; trying again …"; };

buttons();
showProduct(7);
countTotals();
