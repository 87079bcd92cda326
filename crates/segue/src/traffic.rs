//! Gives the API server what the data plane has counted.

use control::apiserver::Traffic;
use jiff::Timestamp;
use network::routing;
use objects::traffic::{Period, SeriesKey};
use tokio::sync::watch;

/// The counts of this machine's data plane.
#[derive(Clone, Default)]
pub(crate) struct DataPlaneTraffic(pub(crate) routing::Traffic);

impl Traffic for DataPlaneTraffic {
    fn since(&self, moment: Option<Timestamp>, holds: &dyn Fn(&SeriesKey) -> bool) -> Period {
        self.0.since(moment, holds)
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes()
    }
}
