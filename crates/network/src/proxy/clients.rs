//! How many connections each client has open, so that one that opens them without end leaves room for the others.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// All clients.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    open: Mutex<HashMap<IpAddr, u32>>,
    /// Connections of one address; 0 for no limit.
    most: AtomicU32,
    refused: AtomicU64,
}

/// One connection of a client.
#[derive(Debug)]
pub(crate) struct Present {
    clients: Arc<Clients>,
    ip: IpAddr,
}

impl Clients {
    /// For so many connections of one address.
    pub(crate) fn limited(most: u32) -> Self {
        Self { most: most.into(), ..Self::default() }
    }

    /// From now on one address may have so many connections, or as many as it likes.
    pub(crate) fn limit(&self, most: Option<u32>) {
        self.most.store(most.unwrap_or(0), Ordering::Relaxed);
    }

    /// Counts a connection for as long as what this gives lives; none when the client has too many.
    pub(crate) fn enter(self: &Arc<Self>, ip: IpAddr) -> Option<Present> {
        let most = self.most.load(Ordering::Relaxed);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(ip).or_default();
        if most > 0 && *count >= most {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        *count += 1;
        Some(Present { clients: self.clone(), ip })
    }

    /// Connections that were closed at once, since their client had too many.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        let mut open = self.clients.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.ip) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.ip);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_client_has_so_many_connections_and_another_still_gets_one() {
        let clients = Arc::new(Clients::default());
        clients.limit(Some(3));
        let (greedy, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let mut open: Vec<_> = (0..3).map(|_| clients.enter(greedy).unwrap()).collect();
        assert!(clients.enter(greedy).is_none() && clients.enter(other).is_some());
        assert_eq!(clients.refused(), 1);
        open.pop();
        assert!(clients.enter(greedy).is_some());
        clients.limit(None);
        open.extend((0..10).map(|_| clients.enter(greedy).unwrap()));
        drop(open);
        assert!(clients.open.lock().unwrap().is_empty());
    }
}
