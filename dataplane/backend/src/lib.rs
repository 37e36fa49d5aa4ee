//! Makes a host able to take DSR traffic, and checks it. It forwards nothing and knows nothing of Kubernetes: which VIPs and
//! directors there are, it is told.
