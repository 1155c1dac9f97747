"""`dask worker` as the command of a batch job, whose files no other user of the node reaches."""

import dask
from distributed.cli.dask_worker import main

from hepflow.system.publishing import scratch

if __name__ == "__main__":
    dask.config.set({"temporary-directory": str(scratch())})
    main()
