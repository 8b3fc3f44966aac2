"""Make the weights of `nano`: one command, from fixed seeds (with tlserve installed).

    torchrun --nproc-per-node 2 plugins/nano/train.py --pictures tiny_imagenet.tar \
        --teacher mobilenet_v2.onnx --classifier mobilenet_v2.safetensors --cache FOLDER --out FILE

The archive holds `<class>/*.JPEG`; a JSON sidecar beside the teacher gives its image spec; the classifier is
the teacher's last layer. Everything slow is kept in the cache folder, and each epoch leaves a checkpoint
there: the same command goes on after an interruption. How the shipped weights were made and what they reach
stands in tlserve_nano/MODEL_CARD.md.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

import torch
from torch import distributed

sys.path.insert(0, str(Path(__file__).parent))
from distil.learning import Lesson, learn, process
from distil.pictures import load_pictures
from distil.recipe import Recipe
from distil.student import Opinion
from distil.teacher import Teacher, ask_teacher
from distil.views import view_places
from tlserve_nano.storage import write_weights

log = logging.getLogger("nano.train")


def main() -> None:
    args = _arguments()
    if "WORLD_SIZE" in os.environ:  # started by torchrun
        distributed.init_process_group("gloo")
    number, n_processes = process()
    torch.set_num_threads(max(1, args.threads // n_processes))
    args.cache.mkdir(parents=True, exist_ok=True)
    handlers: list[logging.Handler] = [logging.StreamHandler(), logging.FileHandler(args.cache / "train.log")]
    logging.basicConfig(
        level=logging.WARNING if number else logging.INFO, format="%(asctime)s %(message)s", handlers=handlers
    )
    recipe = Recipe(seed=args.seed)
    if number == 0:
        lesson = _lesson(args, recipe)
    if n_processes > 1:
        distributed.barrier()  # the first fills the cache, the others read it
    if number != 0:
        lesson = _lesson(args, recipe)
    log.info("%d pictures; %s; torch %s", len(lesson.pictures.labels), recipe, torch.__version__)
    student = learn(lesson, recipe, args.cache)
    if number == 0:
        write_weights(student.network, args.out)
        log.info("%s: %d bytes", args.out, args.out.stat().st_size)


def _lesson(args: argparse.Namespace, recipe: Recipe) -> Lesson:
    pictures = load_pictures(args.pictures, args.cache, recipe.n_drawn, recipe.seed)
    places = view_places(len(pictures.labels), recipe.n_views, recipe.seed)
    teacher = Teacher(args.teacher, args.teacher_map, args.threads)
    targets = ask_teacher(teacher, pictures.pixels, places, args.cache)
    return Lesson(pictures, places, targets, Opinion(args.classifier, targets))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train the weights of the nano backbone.")
    parser.add_argument("--pictures", type=Path, required=True, help="tar of <class>/*.JPEG, 64x64")
    parser.add_argument("--teacher", type=Path, required=True, help="an ONNX file, its .json beside it")
    parser.add_argument("--teacher-map", default="r62", help="a tensor: the teacher's last feature map")
    parser.add_argument("--classifier", type=Path, required=True, help="safetensors with its last layer")
    parser.add_argument("--cache", type=Path, required=True, help="folder for arrays, checkpoint and log")
    parser.add_argument("--out", type=Path, required=True, help="the weights file to write")
    parser.add_argument("--seed", type=int, default=Recipe().seed)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
