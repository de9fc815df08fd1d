"""The encoder and nothing else: images per second on batches that are already in memory, in FeXT's own engine.

What an extraction adds to this (finding, decoding, checking, writing, the CSV) is what compare.py shows. Prints one
JSON line; the first batch, with which engines warm up, is not counted.
"""

import argparse
import json
import time
from pathlib import Path

from fext.compute.device import keeping_freed_memory, prepare_computation
from fext.compute.engines import RowShape, choose_engine, encode_all, make_engine
from fext.data.dataset import ImageStream
from fext.data.source import find_images
from fext.settings import load_settings
from fext.store.checkpoints import load_checkpoint


@keeping_freed_memory()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("images_folder", type=Path)
    parser.add_argument("--num-images", type=int, default=64)
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    words = parser.parse_args()
    settings = load_settings(Path("configurations.py"), words.overrides)
    checkpoint = load_checkpoint(words.checkpoint)
    computation = prepare_computation(settings)
    batch_size = settings.inference_batch_size
    source = find_images(words.images_folder)
    names = source.names[: words.num_images]
    stream = ImageStream(source.root, names, checkpoint.preprocessing, batch_size=batch_size, num_processors=1)
    batches = list(stream.epoch())
    engine_name = choose_engine(settings, computation, checkpoint.model)
    engine = make_engine(engine_name, checkpoint.model, computation, batch_size, RowShape(None, False))
    list(encode_all(engine, batches[:1]))
    began = time.perf_counter()
    count = sum(len(rows) for _, rows in encode_all(engine, batches))
    seconds = time.perf_counter() - began
    print(json.dumps({"images": count, "seconds": seconds, "images_per_second": count / seconds}))


if __name__ == "__main__":
    main()
