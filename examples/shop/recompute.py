"""Makes the recommendations of the shop anew, as a nightly job does, and invalidates those that have changed.

    python3 recompute.py redis://127.0.0.1:8170 DIR

DIR is the folder of the databases: start the shop with --data DIR to know it.
"""

import sqlite3
import sys
from pathlib import Path
from urllib.parse import urlsplit

sys.path.append(str(Path(__file__).parent.parent / "other_languages"))
from invalidate import Cache, plain_script  # noqa: E402

# The four that are bought most by those who have bought a product.
TOGETHER = """
    SELECT product, group_concat(other) FROM (
        SELECT this.product, other.product AS other,
            row_number() OVER (PARTITION BY this.product ORDER BY count(*) DESC, other.product) AS place
        FROM bought AS this JOIN bought AS other ON other.user = this.user AND other.product != this.product
        GROUP BY this.product, other.product
    ) WHERE place <= 4 GROUP BY product
"""
# As many as an invalidation may have.
AT_ONCE = 256


def main(url, folder):
    database = sqlite3.connect(Path(folder) / "recommendation.sqlite", timeout=5)
    before = dict(database.execute("SELECT product, others FROM together"))
    now = dict(database.execute(TOGETHER))
    changed = [product for product, others in now.items() if before.get(product) != others]
    with database:
        database.executemany("INSERT OR REPLACE INTO together VALUES (?, ?)", [(one, now[one]) for one in changed])
    # After the commit, or a load in between would store the old ones again.
    cache = Cache(plain_script(urlsplit(url)), "shop:together")
    for first in range(0, len(changed), AT_ONCE):
        cache.invalidate([str(product) for product in changed[first : first + AT_ONCE]])
    print(f"{len(changed)} of {len(now)} have changed")


if __name__ == "__main__":
    main(*sys.argv[1:])
