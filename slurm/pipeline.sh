#!/usr/bin/env bash
# Submit the stages as a chain of jobs: a stage starts when all jobs of the previous one succeeded.
set -euo pipefail
HEPFLOW_SLURM=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
export HEPFLOW_SLURM

usage() {
  cat <<'TEXT'
usage: slurm/pipeline.sh [--wait] [SBATCH OPTIONS] [STAGE: [SBATCH OPTIONS] [-- HEPFLOW OPTIONS]] ...

Stages, in this order: ingest: features: train: (or spark-train:) evaluate:
Without any, all four run. Give a training several times to train several nets in parallel.
Options before the first stage apply to all jobs. --wait waits for the jobs, and fails if one did.

  slurm/pipeline.sh
  slurm/pipeline.sh --account=atlas \
    ingest: -N 8 -- --config my-ingest.yaml \
    features: -- --cluster.slurm.max_jobs 40 \
    train: -- --config configs/train/hlf.yaml \
    train: -N 2 --ntasks-per-node=4 --gres=gpu:4 -- --config configs/train/inclusive.yaml \
    evaluate:
TEXT
}

die() {
  echo "pipeline.sh: $1. See slurm/pipeline.sh --help." >&2
  exit 2
}

rank_of() { # position of a stage in the chain; nothing for other words
  case $1 in
    ingest:) echo 1 ;;
    features:) echo 2 ;;
    train: | spark-train:) echo 3 ;;
    evaluate:) echo 4 ;;
  esac
}

# Check the words before anything is submitted. Those from `--` to the next stage are hepflow's.
check() {
  local word rank last=0 mine=yes
  for word in "$@"; do
    rank=$(rank_of "$word")
    if [ -n "$rank" ]; then
      [ "$rank" -ge "$last" ] || die "the stage $word is out of order"
      last=$rank mine=yes
    elif [ "$word" = -- ]; then
      [ "$last" != 0 ] || die "-- before the first stage"
      mine=no
    elif [ "$mine" = yes ] && [[ $word == *: ]]; then
      die "no stage $word"
    fi
  done
}

names=() ids=() common=() before=() now=()
stage='' rank=0
submit() { # STAGE with the options in sbatch_options and hepflow_options
  local id arguments=(--parsable)
  if [ "${#before[@]}" -gt 0 ]; then
    arguments+=("--dependency=afterok$(printf ':%s' "${before[@]}")" --kill-on-invalid-dep=yes)
  fi
  id=$(sbatch "${arguments[@]}" "${common[@]}" "${sbatch_options[@]}" "$HEPFLOW_SLURM/$1.sbatch" "${hepflow_options[@]}")
  id=${id%%;*}
  names+=("$1") ids+=("$id") now+=("$id")
  printf '%-12s job %s%s\n' "$1" "$id" "${before[*]:+, after ${before[*]}}"
}

begin() { # a stage: submit the previous one
  if [ -n "$stage" ]; then submit "${stage%:}"; fi
  if [ -n "$1" ] && [ "$(rank_of "$1")" -gt "$rank" ]; then
    before=("${now[@]}") now=() rank=$(rank_of "$1")
  fi
  stage=$1 sbatch_options=() hepflow_options=()
}

field() { # JOB NAME: a field of Slurm's record of a job; nothing if the record is gone
  scontrol -o show job "$1" 2>/dev/null | tr ' ' '\n' | sed -n "s/^$2=//p" | head -n 1
}

state_of() {
  local state
  state=$(field "$1" JobState)
  if [ -z "$state" ]; then state=$(sacct -nX -P -o State -j "$1" 2>/dev/null | head -n 1) || true; fi
  echo "${state:-ENDED, and Slurm keeps no record of how}"
}

follow() { # wait for all jobs; 1 if one failed
  local i state failed=0 states=()
  for i in "${!ids[@]}"; do
    while true; do
      state=$(state_of "${ids[i]}")
      if [ "$state" != "${states[i]:-}" ]; then echo "$(date +%H:%M:%S) ${names[i]} (job ${ids[i]}): $state"; fi
      states[i]=$state
      case $state in PENDING | CONFIGURING | RUNNING | COMPLETING | REQUEUE* | SUSPENDED | STOPPED | RESIZING) sleep "${HEPFLOW_POLL_S:-15}" ;; *) break ;; esac
    done
    case $state in
      COMPLETED | ENDED*) ;;
      CANCELLED*) failed=1 ;;
      *)
        failed=1
        echo "${names[i]} (job ${ids[i]}) ended $state, its log $(field "${ids[i]}" StdOut) with:"
        tail -n 3 "$(field "${ids[i]}" StdOut)" 2>/dev/null | sed 's/^/  /' || true
        ;;
    esac
  done
  return "$failed"
}

wait=no
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) usage && exit 0 ;;
    --wait) wait=yes ;;
    *) break ;;
  esac
  shift
done
check "$@"
# shellcheck source=slurm/env.sh
(unset SLURM_JOB_ID && source "$HEPFLOW_SLURM/env.sh")
while [ $# -gt 0 ] && [ -z "$(rank_of "$1")" ]; do
  common+=("$1")
  shift
done
[ $# -gt 0 ] || set -- ingest: features: train: evaluate:

give_up() {
  if [ "${#ids[@]}" -gt 0 ]; then scancel "${ids[@]}" && echo "cancelled the submitted jobs: ${ids[*]}" >&2; fi
}
trap give_up EXIT
mine=yes
for word in "$@"; do
  if [ -n "$(rank_of "$word")" ]; then
    begin "$word"
    mine=yes
  elif [ "$mine" = yes ] && [ "$word" = -- ]; then
    mine=no
  elif [ "$mine" = yes ]; then
    sbatch_options+=("$word")
  else
    hepflow_options+=("$word")
  fi
done
begin ''
trap - EXIT

echo
echo "follow:  squeue --jobs $(IFS=, && echo "${ids[*]}"), and tail -F hepflow-${names[0]}-${ids[0]}.log"
echo "cancel:  scancel ${ids[*]}"
echo "If a stage fails, later ones are cancelled; its log has the reason. Rerun to resume."
if [ "$wait" = yes ]; then follow; fi
