#!/bin/sh
# Makes the data and the tokenizer of the model that ships.
# sh configs/small/prepare.sh --from ../shared/data [--out data/small] [--vocab 8192]
# (MULTIMODAL_AI=.venv/bin/multimodal-ai where the command is not on the path)
# The files of each recipe and their licences: multimodal-ai data recipes. docs/recipes.md names the fonts to install.
set -eu
from="" out="data/small" vocab=8192 run="${MULTIMODAL_AI:-multimodal-ai}"
while [ $# -gt 0 ]; do
    case "$1" in
        --from) from="$2" ;;
        --out) out="$2" ;;
        --vocab) vocab="$2" ;;
        *) echo "unknown option $1; there are --from, --out and --vocab" >&2; exit 2 ;;
    esac
    shift 2
done
[ -n "$from" ] || { echo "name the folder of the source files with --from FOLDER" >&2; exit 2; }
for recipe in sroie grocery nlvr openclipart emoji_noto storybooks openstax_img books openstax_text wiki_summaries; do
    $run data prepare "$recipe" --from "$from" --out "$out"
done
for recipe in easy_vqa shape_tiles rendered_receipts rendered_scenes; do
    $run data prepare "$recipe" --out "$out"
done
$run data prepare rendered_lines --from "$from" --out "$out" --split train --limit 150000
$run data prepare rendered_lines --from "$from" --out "$out" --split test
$run data prepare reprinted_receipts --from "$from" --out "$out"
$run data prepare digits --out "$out" --split train --limit 30000
$run data prepare digits --out "$out" --split test
$run data prepare digit_tiles --out "$out" --limit 20000
$run data prepare function_cards --out "$out" --split train --limit 40000
$run data prepare function_cards --out "$out" --split calibration --split test
$run tokenizer train "$out"/*/train.parquet --vocab-size "$vocab" --max-characters 30000000 --out "$out/tokenizer"
