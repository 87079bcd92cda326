//! How many connections each client has open, so that one that opens them without end leaves room for the others.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Connections of one address. Many users may be behind one; a proxy in front needs a few hundred.
pub(crate) const MOST_OF_ONE_CLIENT: u32 = 16_384;

/// All clients.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    open: Mutex<HashMap<IpAddr, u32>>,
    refused: AtomicU64,
}

/// One connection of a client.
#[derive(Debug)]
pub(crate) struct Present {
    clients: Arc<Clients>,
    ip: IpAddr,
}

impl Clients {
    /// Counts a connection for as long as what this gives lives; none when the client has too many.
    pub(crate) fn enter(self: &Arc<Self>, ip: IpAddr) -> Option<Present> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(ip).or_default();
        if *count >= MOST_OF_ONE_CLIENT {
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
        let (greedy, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let mut open: Vec<_> = (0..MOST_OF_ONE_CLIENT).map(|_| clients.enter(greedy).unwrap()).collect();
        assert!(clients.enter(greedy).is_none() && clients.enter(other).is_some());
        assert_eq!(clients.refused(), 1);
        open.pop();
        assert!(clients.enter(greedy).is_some());
        drop(open);
        assert!(clients.open.lock().unwrap().is_empty());
    }
}
