//! Builds small networks of namespaces and takes them away again. It knows nothing of the gateway that is tried in them.
