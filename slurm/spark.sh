# A Spark standalone cluster inside a Slurm allocation: one worker a node. Sourced by the scripts that need Spark; sets SPARK_MASTER.
# shellcheck shell=bash
SPARK_HOME=$(python -c 'import pathlib, pyspark; print(pathlib.Path(pyspark.__file__).parent)')
JAVA_HOME=${JAVA_HOME:-$(python -c 'from hepflow.spark import java_home; print(java_home())')}
export SPARK_HOME JAVA_HOME
SPARK_SCRATCH=${SPARK_SCRATCH:-$PWD/spark-$SLURM_JOB_ID}
export SPARK_LOCAL_DIRS=$SPARK_SCRATCH/local SPARK_WORKER_DIR=$SPARK_SCRATCH/work SPARK_LOG_DIR=$SPARK_SCRATCH/log
mkdir -p "$SPARK_LOCAL_DIRS" "$SPARK_WORKER_DIR" "$SPARK_LOG_DIR"

# ports by job, so that jobs on one node do not collide
spark_host=${SPARK_LOCAL_IP:-$(hostname -f)}
spark_port=$((20000 + SLURM_JOB_ID % 10000))
spark_ui_port=$((spark_port + 10000))
spark_cores=${SLURM_CPUS_PER_TASK:-${SLURM_CPUS_ON_NODE:-1}}
spark_memory=${SPARK_WORKER_MEMORY:-$((spark_cores * 2))g}
SPARK_MASTER=spark://$spark_host:$spark_port
export SPARK_MASTER

spark_stop() {
  kill "$spark_workers_pid" "$spark_master_pid" 2>/dev/null || true
  wait "$spark_workers_pid" "$spark_master_pid" 2>/dev/null || true
}

spark_alive() {
  python -c 'import json, sys, urllib.request as r; print(json.load(r.urlopen(sys.argv[1], timeout=5))["aliveworkers"])' \
    "http://$spark_host:$spark_ui_port/json/" 2>/dev/null || echo 0
}

"$SPARK_HOME/bin/spark-class" org.apache.spark.deploy.master.Master \
  --host "$spark_host" --port "$spark_port" --webui-port "$spark_ui_port" >"$SPARK_LOG_DIR/master.log" 2>&1 &
spark_master_pid=$!
# shellcheck disable=SC2016  # expanded by the shell on each node
srun --overlap --ntasks="$SLURM_NNODES" --ntasks-per-node=1 --cpus-per-task="$spark_cores" --kill-on-bad-exit=0 bash -c '
  exec "$SPARK_HOME/bin/spark-class" org.apache.spark.deploy.worker.Worker --host "${SPARK_LOCAL_IP:-$(hostname -f)}" \
    --cores "$1" --memory "$2" --webui-port 0 --work-dir "$SPARK_WORKER_DIR/$SLURMD_NODENAME" "$3"' \
  _ "$spark_cores" "$spark_memory" "$SPARK_MASTER" >"$SPARK_LOG_DIR/workers.log" 2>&1 &
spark_workers_pid=$!
trap spark_stop EXIT

for ((try = 0; ; try++)); do
  [ "$(spark_alive)" -lt "$SLURM_NNODES" ] || break
  if ! kill -0 "$spark_master_pid" 2>/dev/null || [ "$try" -ge 240 ]; then
    echo "the Spark workers did not come up; see $SPARK_LOG_DIR" >&2
    exit 1
  fi
  sleep 0.5
done
echo "Spark: $SPARK_MASTER with $SLURM_NNODES workers of $spark_cores cores; web page http://$spark_host:$spark_ui_port"
echo "from outside: ssh -L $spark_ui_port:$spark_host:$spark_ui_port $(hostname -f)"
