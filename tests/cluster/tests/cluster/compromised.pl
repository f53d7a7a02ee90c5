# What a daemon could do whose code is another's: run as it, in its unit's sandbox, with its user, its
# capabilities and its descriptors. Each try is a child, and its answer one line: `try`, a tab, yes or no.
#
#   compromised.pl SERVICE PID-OF-INIT PID-OF-ANOTHER-DAEMON NODE-NETWORK
use strict;
use Socket;
use Fcntl;
my ($me, $init, $other_pid, $node_net) = @ARGV;
my @services = qw(storage network resources lifecycle);
my ($other) = grep { $_ ne $me } qw(network lifecycle);
my $ct = "/run/ves/ct/101";

sub reads { open(my $f, "<", $_[0]) or return 0; (sysread($f, my $byte, 1) // 0) > 0 }
sub made { my $new = "$_[0]/ves-try"; sysopen(my $f, $new, O_CREAT | O_WRONLY) or return 0; unlink $new; 1 }
# Literals cannot be handed to the kernel.
sub call { my @words = @_; return syscall($words[0], @words[1 .. $#words]) }
# By the descriptor that units hand over, or as root does.
sub enter_node {
    for my $fd (3 .. 5) { return 1 if call(308, $fd, 0x20000) == 0 }
    open(my $f, "<", "/proc/1/ns/mnt") or return 0;
    call(308, fileno $f, 0x20000) == 0;
}
sub quiet { system("$_[0] >/dev/null 2>&1") == 0 }

# Whether a daemon does not refuse this account a call; what it says to an empty one is its own matter.
sub calls {
    my ($socket, $rpc) = @_;
    my $said = `curl -sS -m 20 -o /dev/null -D - --http2-prior-knowledge --unix-socket $socket \\
        -H 'content-type: application/grpc' -H 'te: trailers' --data-binary \@/opt/ves-tries/empty \\
        http://ves/$rpc 2>&1`;
    $said =~ /^HTTP\/2 200/ && $said !~ /^grpc-status: 7\b/m;
}
sub service { my ($name, $rpc) = @_; calls("/run/ves/$name/$name.sock", "ves.$name.v1.\u${name}Service/$rpc") }
# Whether a peer by a socket waits for what is said, and does not hang up.
sub heard {
    my ($path, $type) = @_;
    socket(my $s, AF_UNIX, $type, 0) or return 0;
    connect($s, sockaddr_un($path)) or return 0;
    my $ready = "";
    vec($ready, fileno $s, 1) = 1;
    select($ready, undef, undef, 1.5) == 0;
}

my %change = (storage => "RemoveVolume", network => "RemoveInterface", resources => "RemoveLimits",
    lifecycle => "EnsureContainer");
my %read = (network => "ListInterfaces", lifecycle => "ListContainers");
my @tries = (
    (map { my $to = $_; ["have $to change something", sub { service($to, $change{$to}) }] } @services),
    ["read what another service shows", sub { service($other, $read{$other}) }],
    ["have the coordinator change a container",
        sub { calls("/run/ves/api/coordinator.sock", "ves.api.v1.ContainerService/DeleteContainer") }],
    ["have the starter make a container", sub { heard("/run/ves/starter.sock", SOCK_SEQPACKET) }],
    ["have the builder build", sub { heard("/run/ves/builder.sock", SOCK_SEQPACKET) }],
    ["ask a container's monitor", sub { heard("$ct/monitor.sock", SOCK_STREAM) }],
    ["stand in for another service", sub { made("/run/ves/$other") }],
    ["change another's fences", sub { made("/run/ves/fence/$other") }],
    ["read the desired state", sub { reads("/var/lib/ves/coordinator/state.redb") }],
    ["read a volume's image", sub { reads("/var/lib/ves/storage/pool/volumes/101.img") }],
    ["read a secret of a container's root by the mounted volume", sub {
        enter_node();
        open(my $f, "<", "/run/ves/volumes/ns") or return 0;
        call(308, fileno $f, 0x20000) == 0 && reads("/101/etc/shadow");
    }],
    ["open a container's network namespace", sub { reads("$ct/netns") || $!{EINVAL} }],
    ["change a limit by its control group", sub {
        my ($file) = grep { -e } glob("/sys/fs/cgroup/ves/ct-101/pids.max /run/cg1/*/ves/ct-101/pids.max");
        $file && sysopen(my $f, $file, O_WRONLY);
    }],
    ["end a container's init", sub { kill 0, $init }],
    ["signal another daemon", sub { kill 0, $other_pid }],
    ["read another daemon's memory", sub { open(my $f, "<", "/proc/$other_pid/mem") }],
    ["read the node's passwords", sub { reads("/etc/shadow") }],
    ["change the node's system", sub { made("/usr/lib") || made("/etc") || made("/etc/systemd/system") }],
    ["have the service manager do something", sub {
        quiet("busctl call org.freedesktop.systemd1 /org/freedesktop/systemd1 " .
            "org.freedesktop.systemd1.Manager UnsetEnvironment as 1 VES_TRY");
    }],
    ["become another user", sub { call(117, 65534, 65534, 65534) == 0 || call(117, 0, 0, 0) == 0 }],
    ["become another group's", sub { call(119, 65534, 65534, 65534) == 0 }],
    ["change a link of the node", sub {
        (readlink("/proc/self/ns/net") // "") eq $node_net && quiet("ip link set dev lo mtu 65536");
    }],
    ["send to the network", sub {
        socket(my $s, AF_INET, SOCK_DGRAM, 0) or return 0;
        (readlink("/proc/self/ns/net") // "") eq $node_net &&
            bind($s, sockaddr_in(0, INADDR_LOOPBACK)) && send($s, "x", 0, getsockname $s);
    }],
    ["mount a file system", sub {
        mkdir "/tmp/ves-try";
        my $none = "";
        call(165, "none", "/tmp/ves-try", "tmpfs", 0, $none) == 0;
    }],
    ["enter the node's mount namespace", sub { enter_node() }],
    ["open a loop device", sub { sysopen(my $f, "/dev/loop0", O_RDWR) }],
    ["make a device node", sub { call(133, "/tmp/ves-node", 0020600, 0x103) == 0 && unlink "/tmp/ves-node" }],
    ["trace another process", sub { call(101, 0x4206, $other_pid + 0, 0, 0) == 0 }],
);
$| = 1;
for (@tries) {
    my ($name, $try) = @$_;
    defined(my $child = fork) or die "fork: $!\n";
    # A filter may kill it.
    if (!$child) { exit(eval { $try->() } ? 0 : 1) }
    waitpid($child, 0);
    print "$name\t", ($? ? "no" : "yes"), "\n";
}
print "all tried\n";
