# The only file to edit for a site: environment of the jobs. Every script here sources it.
# shellcheck shell=bash
#   module load python/3.11 cuda
#   export JAVA_HOME=/usr/lib/jvm/java-17-openjdk-amd64
HEPFLOW_VENV=${HEPFLOW_VENV:-$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")/.venv}

# Nothing below this line depends on the site.
if [ ! -x "$HEPFLOW_VENV/bin/hepflow" ]; then
  echo "no hepflow in $HEPFLOW_VENV: run 'make install' in the checkout, or set HEPFLOW_VENV" >&2
  exit 2
fi
export PATH="$HEPFLOW_VENV/bin:$PATH"
export PYTHONUNBUFFERED=1
# threads of a task, instead of one per core of the node
export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}

# Print the address of a web page of this job, and how to open it from outside: show_page NAME PORT
show_page() {
  local host
  host=$(hostname -f)
  echo "$1: http://$host:$2"
  echo "  from outside: ssh -N -L $2:$host:$2 $(id -un)@${SLURM_SUBMIT_HOST:-LOGIN_NODE}, then http://localhost:$2"
}

# Print the last line in the log of a failed job; if Slurm ended it, Slurm reports that.
end_job() {
  local status=$?
  if declare -F spark_stop >/dev/null; then spark_stop "$status"; fi
  case $status in
    0 | 143) ;;
    *) echo "$SLURM_JOB_NAME (job $SLURM_JOB_ID) failed with exit status $status; jobs that wait for it will not start" >&2 ;;
  esac
}
if [ -n "${SLURM_JOB_ID:-}" ]; then trap end_job EXIT; fi
