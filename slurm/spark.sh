# A Spark standalone cluster inside a Slurm allocation: one worker per node. Sourced after env.sh by
# the scripts that need Spark; sets SPARK_MASTER. The cluster has a secret: only this job can use it.
# shellcheck shell=bash
SPARK_HOME=$(python -c 'from importlib.util import find_spec; print(*find_spec("pyspark").submodule_search_locations)')
JAVA_HOME=$(python -c 'from hepflow.engines.java import java_home; print(java_home())')  # the site's, if Spark supports it
SPARK_SCRATCH=${SPARK_SCRATCH:-$PWD/spark-$SLURM_JOB_ID}
SPARK_CONF_DIR=$SPARK_SCRATCH/conf
export SPARK_HOME JAVA_HOME SPARK_CONF_DIR
export SPARK_LOCAL_DIRS=$SPARK_SCRATCH/local SPARK_WORKER_DIR=$SPARK_SCRATCH/work SPARK_LOG_DIR=$SPARK_SCRATCH/log
mkdir -p "$SPARK_CONF_DIR" "$SPARK_LOCAL_DIRS" "$SPARK_WORKER_DIR" "$SPARK_LOG_DIR"

# ports per job, so that jobs on one node do not collide
spark_host=${SPARK_LOCAL_IP:-$(hostname -f)}
spark_port=$((20000 + SLURM_JOB_ID % 2500 * 4))
spark_cores=${SLURM_CPUS_PER_TASK:-${SLURM_CPUS_ON_NODE:-1}}
spark_memory=${SPARK_WORKER_MEMORY:-$((spark_cores * 2))g}
SPARK_MASTER=spark://$spark_host:$spark_port
(
  umask 077
  secret=$(python -c 'import secrets; print(secrets.token_hex(32))')
  printf '%s\n' "spark.authenticate true" "spark.authenticate.secret $secret" \
    "spark.network.crypto.enabled true" "spark.ui.killEnabled false" "spark.ui.port $((spark_port + 2))" \
    >"$SPARK_CONF_DIR/spark-defaults.conf"
)

spark_stop() {
  kill "$spark_workers_pid" "$spark_master_pid" 2>/dev/null || true
  wait "$spark_workers_pid" "$spark_master_pid" 2>/dev/null || true
  rm -rf "$SPARK_CONF_DIR" "$SPARK_LOCAL_DIRS"
  if [ "$1" = 0 ]; then rm -rf "$SPARK_SCRATCH"; else echo "logs of Spark: $SPARK_LOG_DIR; logs of its tasks: $SPARK_WORKER_DIR" >&2; fi
}

spark_alive() {
  python -c 'import json, sys, urllib.request as r; print(json.load(r.urlopen(sys.argv[1], timeout=5))["aliveworkers"])' \
    "http://$spark_host:$((spark_port + 1))/json/" 2>/dev/null || echo 0
}

"$SPARK_HOME/bin/spark-class" org.apache.spark.deploy.master.Master \
  --host "$spark_host" --port "$spark_port" --webui-port "$((spark_port + 1))" >"$SPARK_LOG_DIR/master.log" 2>&1 &
spark_master_pid=$!
# shellcheck disable=SC2016  # expanded by the shell on each node
srun --overlap --ntasks="$SLURM_NNODES" --ntasks-per-node=1 --cpus-per-task="$spark_cores" --kill-on-bad-exit=0 bash -c '
  exec "$SPARK_HOME/bin/spark-class" org.apache.spark.deploy.worker.Worker --host "${SPARK_LOCAL_IP:-$(hostname -f)}" \
    --cores "$1" --memory "$2" --webui-port 0 --work-dir "$SPARK_WORKER_DIR/$SLURMD_NODENAME" "$3"' \
  _ "$spark_cores" "$spark_memory" "$SPARK_MASTER" >"$SPARK_LOG_DIR/workers.log" 2>&1 &
spark_workers_pid=$!

spark_deadline=$((SECONDS + ${SPARK_WAIT_S:-120}))
while spark_workers=$(spark_alive) && [ "$spark_workers" -lt "$SLURM_NNODES" ]; do
  if [ "$SECONDS" -ge "$spark_deadline" ] || ! kill -0 "$spark_master_pid" 2>/dev/null; then
    if [ "$spark_workers" = 0 ]; then
      echo "no Spark worker started in time: see $SPARK_LOG_DIR" >&2
      exit 1
    fi
    echo "only $spark_workers of $SLURM_NNODES Spark workers started; continuing with them: see $SPARK_LOG_DIR" >&2
    break
  fi
  sleep 1
done
echo "Spark: $SPARK_MASTER with $spark_workers workers of $spark_cores cores"
show_page "Spark master" "$((spark_port + 1))"
show_page "Spark application" "$((spark_port + 2))"
