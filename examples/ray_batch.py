"""A file of prompts and questions on a Ray cluster: python ray_batch.py ITEMS.jsonl FOLDER.

RAY_ADDRESS names the cluster; without it, one starts on this machine. `janus-edge batch --ray`
does the same and can be stopped and continued.
"""

import json
import sys
from pathlib import Path

import ray

from janus_edge.batch.items import read_items
from janus_edge.batch.ray_data import AT_ONCE, JanusWorker, row_of

source, folder = Path(sys.argv[1]), Path(sys.argv[2])
folder.mkdir()
ray.init(log_to_driver=False)
rows = ray.data.from_items([row_of(item) for item in read_items(source)])
made = rows.map_batches(
    JanusWorker,
    fn_constructor_kwargs={"model": "tiny-things", "num_threads": 1},
    batch_size=AT_ONCE,
    concurrency=2,
)
for row in made.iter_rows():
    print(row["id"], json.loads(row["values"]))
    if row["image"]:
        (folder / f"{row['id']}.png").write_bytes(row["image"])
