//! What really leaves an interface, and what is taken in from one: two namespaces and the wire between them.

use sluicegate_announce::{
    AnnounceSettings, Announcer, DirectorId, FenceError, FenceSink, Fitness, Moment, OnIsolation, Port, Secret, Timing,
};
use std::net::IpAddr;
