# The one file a site edits: what a job needs before `hepflow` can run. Sourced by every script here.
# shellcheck shell=bash
#   module load python/3.11 cuda
#   export JAVA_HOME=/usr/lib/jvm/java-17-openjdk-amd64
HEPFLOW_VENV=${HEPFLOW_VENV:-${SLURM_SUBMIT_DIR:-$PWD}/.venv}
if [ ! -x "$HEPFLOW_VENV/bin/hepflow" ]; then
  echo "no hepflow in $HEPFLOW_VENV: run 'make install' there, or set HEPFLOW_VENV" >&2
  exit 2
fi
export PATH="$HEPFLOW_VENV/bin:$PATH"
export PYTHONUNBUFFERED=1
# the tasks' own threads, not one thread a core of the node for each of them
export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}
