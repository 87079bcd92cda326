//! Names of conditions and annotations to which Segue gives a meaning.

/// Pod condition: True once the data plane acknowledged a configuration in which this pod is ready.
pub const ROUTED: &str = "segue.dev/Routed";

/// Pod condition of a terminating pod: False with reason [`DEPRIORITISED`], [`WITHDRAWN`] or
/// [`ENDING_LONG_CONNECTIONS`] while work is in flight; True with reason [`NOT_ROUTED`], [`IDLE`] or [`DEADLINE_PASSED`] when it may be signalled.
pub const DRAINED: &str = "segue.dev/Drained";

/// Pod condition: False where there are NetworkPolicies and no container was started yet; True once the data plane has
/// acknowledged a configuration that knows the pod's address, so that every policy about it holds. Then they are started.
pub const POLICIES_IN_FORCE: &str = "segue.dev/NetworkPoliciesInForce";

/// The mark (`SO_MARK`) of connections by which the node probes its pods: policies are not about them. Its bits are none
/// of those that Tailscale (0xff0000) and kube-proxy (0xc000) use.
pub const PROBE_MARK: u32 = 0x5e00_0000;

/// The pod is used only if nothing ready is left.
pub const DEPRIORITISED: &str = "Deprioritised";
/// The data plane acknowledged that the pod gets no new work.
pub const WITHDRAWN: &str = "Withdrawn";
/// No Service gives work to the pod.
pub const NOT_ROUTED: &str = "NotRouted";
/// Those who still have long connections to the pod are being told that these end.
pub const ENDING_LONG_CONNECTIONS: &str = "EndingLongConnections";
/// Nothing is in flight to the pod.
pub const IDLE: &str = "Idle";
/// The drain deadline passed with requests still in flight.
pub const DEADLINE_PASSED: &str = "DeadlinePassed";

/// Pod annotation: how many seconds a pod may take to drain (default: its terminationGracePeriodSeconds).
pub const DRAIN_DEADLINE: &str = "segue.dev/drain-deadline";

/// Pod annotation: how many seconds connections whose end nobody can predict may stay with a pod that goes away
/// (default: as long as requests).
pub const LONG_CONNECTION_DEADLINE: &str = "segue.dev/long-connection-deadline";

/// Pod annotation, written by the API server on a deletion that named `gracePeriodSeconds`: that number. It caps
/// drain and grace together.
pub const EXPLICIT_GRACE: &str = "segue.dev/explicit-grace";

/// ReplicaSet annotation: when it became its Deployment's new one for the second time or later, as by an undone rollout
/// (RFC 3339). The first time is its creation.
pub const ROLLED_OUT_AGAIN: &str = "segue.dev/rolled-out-again";

/// The controller that an IngressClass names for Ingresses that Segue serves.
pub const INGRESS_CONTROLLER: &str = "segue.dev/ingress";

/// Service annotation: the name of a cookie by which clients come back to the same pod.
pub const STICKY_COOKIE: &str = "segue.dev/sticky-cookie";

/// Service annotation: `v1` or `v2` has each connection to a pod begin with the PROXY protocol's header of that version, and
/// all bytes pass untouched.
pub const PROXY_PROTOCOL: &str = "segue.dev/proxy-protocol";

/// Service annotation: the most bytes that the body of a request may have, as a quantity (`10Mi`). None unless it says so.
pub const MAX_REQUEST_BODY: &str = "segue.dev/max-request-body";

/// Service annotation: ports, by number or name and separated by commas, whose bytes are to pass untouched.
pub const OPAQUE_PORTS: &str = "segue.dev/opaque-ports";

/// Service annotation: `true` makes the Services of this namespace and name on all machines of the mesh one to its callers.
pub const MESH: &str = "segue.dev/mesh";

/// Service annotation: `spread` gives requests to pods of all machines alike; `local`, the default, to those of other machines
/// only while none is ready here.
pub const MESH_POLICY: &str = "segue.dev/mesh-policy";

/// Kubernetes' condition of a pod that is about to be taken down by somebody other than its owner.
pub const DISRUPTION_TARGET: &str = "DisruptionTarget";
/// The reason of [`DISRUPTION_TARGET`] when that is the pod's node.
pub const TERMINATION_BY_KUBELET: &str = "TerminationByKubelet";

/// Pod condition, written by the node: True since it ends the pod for having been active longer than it may.
pub const OUTLIVED: &str = "segue.dev/Outlived";

/// Reason in the status of a pod that was active for longer than it may.
pub const DEADLINE_EXCEEDED: &str = "DeadlineExceeded";

/// Where a container finds its ServiceAccount's token.
pub const SERVICE_ACCOUNT_MOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Before the name of the volume with a pod's token.
pub const TOKEN_VOLUME: &str = "kube-api-access-";

/// Namespace and name of the Service by which pods find the API.
pub const API_SERVICE: (&str, &str) = ("default", "kubernetes");
