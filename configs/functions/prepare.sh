#!/bin/sh
# Makes the data and the tokenizers of the text-only function models.
# sh configs/functions/prepare.sh --from ../shared/data [--out data/functions]
# (MULTIMODAL_AI=.venv/bin/multimodal-ai where the command is not on the path)
# About 5 minutes and 250 MB; the files of each recipe and their licences: multimodal-ai data recipes
set -eu
from="" out="data/functions" run="${MULTIMODAL_AI:-multimodal-ai}"
while [ $# -gt 0 ]; do
    case "$1" in
        --from) from="$2" ;;
        --out) out="$2" ;;
        *) echo "unknown option $1; there are --from and --out" >&2; exit 2 ;;
    esac
    shift 2
done
[ -n "$from" ] || { echo "name the folder of the source files with --from FOLDER" >&2; exit 2; }
for recipe in sealtools function_search metatool clinc150 snips; do
    $run data prepare "$recipe" --from "$from" --out "$out"
done
$run data prepare sgd --from "$from" --out "$out" --split train
$run data prepare sgd --from "$from" --out "$out" --split calibration --limit 4000
$run data prepare sgd --from "$from" --out "$out" --split test --limit 4000
$run data prepare function_cards --out "$out" --split train --limit 60000
$run data prepare function_cards --out "$out" --split calibration --split test
for size in 4096 12288; do
    $run tokenizer train "$out"/*/train.parquet --vocab-size "$size" --max-characters 30000000 --out "$out/tokenizer_$size"
done
