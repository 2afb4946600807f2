#!/bin/bash
# Measures on a bare machine with a GPU: bash benches/gpu.sh PART ..., with results in $OUT (default: build/gpu).
# Packages in .whl are installed first, if there are any; CIFAR-10's Parquet files lie in $DATA.
set -u -o pipefail
cd "$(dirname "$0")/.."
OUT=${OUT:-build/gpu} PYTHON=${PYTHON:-python3} DATA=${DATA:-.gpu/cifar10-93-from-jpeg} RUN=${RUN:-/tmp/run}
mkdir -p "$OUT"
export PYTHON PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 TORCHINDUCTOR_CACHE_DIR=/tmp/inductor PYTHONPATH=/tmp/site:$PWD

install() {
    [ -d /tmp/site ] || [ ! -d .whl ] || $PYTHON -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target /tmp/site .whl/*.whl
}

# Every method against a CPU.
tests() {
    timeout "${1:-120}" $PYTHON -m pytest -n "${WORKERS:-12}" --dist worksteal -q -p no:cacheprovider --durations 8 tests/cuda > "$OUT/tests.log" 2>&1
    grep -E "^(FAILED|ERROR|E  )|passed|failed" "$OUT/tests.log" | cut -c1-220 | head -${LINES_SHOWN:-60}
}

# Steps of SimCLR, eager and compiled, and the ways of views apart.
steps() {
    $PYTHON benches/forward_views.py --encoders res18 2>&1 | tee "$OUT/forward_views.log"
    $PYTHON benches/forward_views.py --encoders res50 --batches 32 128 --steps 3 2>&1 | tee -a "$OUT/forward_views.log"
    timeout "${1:-150}" $PYTHON benches/train.py cifar10/simclr-b512 --set dataset="$DATA/train-00000-of-00002.parquet" test_split=null \
        --against compile=true 2>&1 | tee "$OUT/steps.log"
}

# One row of the table: row RECIPE MINUTES KEY=VALUE ...
row() {
    local recipe=$1 minutes=$2
    shift 2
    $PYTHON recipes/train.py "$recipe" --resume --output "$RUN" --minutes "$minutes" --set dataset="$DATA" "$@" 2>&1 | tee -a "$OUT/row.log"
    nvidia-smi --query-gpu=name,memory.used,utilization.gpu --format=csv | tee -a "$OUT/row.log"
    tar -C "$RUN" --exclude checkpoints -cf - . | split -b 15M - "$OUT/run.tar."
}

# Variants of recipes, several at a time: variants FILE SECONDS KEY=VALUE ... The file has a recipe and its changes on each line,
# as benches/small_variants.txt.
variants() {
    local file=$1 seconds=$2
    shift 2
    nl -ba "$file" | OMP_NUM_THREADS=1 timeout "$seconds" xargs -P "${WORKERS:-12}" -L 1 bash -c '
        number=$1 recipe=$2 shared=$0
        shift 2
        "${PYTHON:-python3}" recipes/train.py "$recipe" --output "/tmp/variants/$number" --set $shared "$@" > "/tmp/variant-$number.log" 2>&1' "$*"
    $PYTHON benches/variants.py "$file" /tmp/variants | tee "$OUT/variants.md"
    tar -C /tmp -czf "$OUT/variants.tar.gz" --exclude '*.safetensors' --exclude checkpoints variants $(cd /tmp && ls -d variant-*.log)
}

# The table of all methods, several runs at a time; repeated on the same machine, it goes on: table MINUTES KEY=VALUE ...
table() {
    local minutes=$1
    shift
    OMP_NUM_THREADS=1 $PYTHON benches/methods.py --seeds ${SEEDS:-0 1 2} --workers "${WORKERS:-12}" --minutes "$minutes" --output /tmp/methods \
        --set dataset="$DATA" "$@" > "$OUT/methods.md" 2> "$OUT/methods.log"
    grep -v "^step" "$OUT/methods.log" | tail -20
    cat "$OUT/methods.md"
    tar -C /tmp -czf "$OUT/methods.tar.gz" --exclude '*.safetensors' --exclude checkpoints methods
}

install || exit
for part; do
    echo "== $part, after $SECONDS s"
    eval "$part"
done
echo "== end, after $SECONDS s"
