import java.io.File;
import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Proxy;
import java.net.InetSocketAddress;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.EnumSet;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.ConcurrentHashMap;
import java.util.function.Supplier;
import javax.crypto.SecretKey;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.FileContext;
import org.apache.hadoop.fs.Path;
import org.apache.hadoop.ipc.Server;
import org.apache.hadoop.security.Credentials;
import org.apache.hadoop.security.UserGroupInformation;
import org.apache.hadoop.security.token.SecretManager;
import org.apache.hadoop.security.token.TokenIdentifier;
import org.apache.hadoop.io.DataInputByteBuffer;
import org.apache.hadoop.yarn.api.ApplicationClientProtocol;
import org.apache.hadoop.yarn.api.ApplicationConstants;
import org.apache.hadoop.yarn.api.ApplicationMasterProtocol;
import org.apache.hadoop.yarn.api.ContainerManagementProtocol;
import org.apache.hadoop.yarn.api.protocolrecords.*;
import org.apache.hadoop.yarn.api.records.*;
import org.apache.hadoop.yarn.conf.YarnConfiguration;
import org.apache.hadoop.yarn.exceptions.YarnException;
import org.apache.hadoop.yarn.ipc.YarnRPC;
import org.apache.hadoop.yarn.security.AMRMTokenIdentifier;
import org.apache.hadoop.yarn.security.ContainerTokenIdentifier;
import org.apache.hadoop.yarn.security.NMTokenIdentifier;
import org.apache.hadoop.yarn.util.FSDownload;
import org.apache.hadoop.yarn.util.Records;

/**
 * As much of YARN as one application after the other needs, on one machine: the three protocols behind Hadoop's own RPC servers.
 *
 * <p>As in the real one: tokens of application masters and containers are checked, files and archives are localised by Hadoop's own
 * downloader, containers are processes started by a shell script, a failed application master is started again. Missing: scheduling
 * and queues (any name is taken), users, isolation, log aggregation, web pages.
 *
 * <p>Usage: java MiniYarn FOLDER. Addresses are those of yarn-site.xml. What happens is printed, one line each.
 */
public final class MiniYarn {
  private static final Resource NODE = Resource.newInstance(16384, 16);
  private static final long STARTED = System.currentTimeMillis();

  private final Configuration conf = new YarnConfiguration();
  private final File root;
  private final Secrets<AMRMTokenIdentifier> masters = new Secrets<>(AMRMTokenIdentifier::new);
  private final Secrets<NMTokenIdentifier> nodes = new Secrets<>(NMTokenIdentifier::new);
  private final Secrets<ContainerTokenIdentifier> containers = new Secrets<>(ContainerTokenIdentifier::new);
  private final Map<ApplicationId, App> apps = new ConcurrentHashMap<>();
  private final Map<ContainerId, Process> running = new ConcurrentHashMap<>();
  private NodeId node;

  private static final class App {
    final ApplicationReport report = Records.newRecord(ApplicationReport.class);
    final Map<String, ResourceRequest> asked = new TreeMap<>();
    final Map<ContainerId, Resource> held = new HashMap<>();
    final List<ContainerStatus> ended = new ArrayList<>();
    ApplicationSubmissionContext context;
    long containers;
  }

  private static final class Secrets<T extends TokenIdentifier> extends SecretManager<T> {
    private final SecretKey key = generateSecret();
    private final Supplier<T> empty;

    Secrets(Supplier<T> empty) {
      this.empty = empty;
    }

    @Override
    protected byte[] createPassword(T identifier) {
      return createPassword(identifier.getBytes(), key);
    }

    @Override
    public byte[] retrievePassword(T identifier) {
      return createPassword(identifier);
    }

    @Override
    public T createIdentifier() {
      return empty.get();
    }

    Token token(T identifier, String service) {
      return Token.newInstance(identifier.getBytes(), identifier.getKind().toString(), createPassword(identifier), service);
    }
  }

  private MiniYarn(File root) {
    this.root = root;
  }

  public static void main(String[] arguments) throws Exception {
    MiniYarn yarn = new MiniYarn(new File(arguments[0]).getAbsoluteFile());
    Runtime.getRuntime().addShutdownHook(new Thread(() -> yarn.running.values().forEach(Process::destroyForcibly)));
    yarn.serve(ApplicationClientProtocol.class, YarnConfiguration.RM_ADDRESS, null);
    yarn.serve(ApplicationMasterProtocol.class, YarnConfiguration.RM_SCHEDULER_ADDRESS, yarn.masters);
    Server manager = yarn.serve(ContainerManagementProtocol.class, YarnConfiguration.NM_ADDRESS, yarn.nodes);
    yarn.node = NodeId.newInstance("127.0.0.1", manager.getListenerAddress().getPort());
    say("READY");
    Thread.currentThread().join();
  }

  private static void say(String format, Object... values) {
    System.out.println(String.format(format, values));
    System.out.flush();
  }

  /** Calls of a protocol go to the method of the same name here, if there is one. */
  private Server serve(Class<?> protocol, String addressKey, SecretManager<?> secrets) {
    Object target = Proxy.newProxyInstance(protocol.getClassLoader(), new Class<?>[] {protocol}, (proxy, method, values) -> {
      try {
        return MiniYarn.class.getMethod(method.getName(), method.getParameterTypes()).invoke(this, values);
      } catch (NoSuchMethodException error) {
        throw new YarnException("this stand-in for YARN has no " + method.getName());
      } catch (InvocationTargetException error) {
        throw error.getCause();
      }
    });
    @SuppressWarnings("unchecked")
    SecretManager<? extends TokenIdentifier> checked = (SecretManager<? extends TokenIdentifier>) secrets;
    InetSocketAddress address = conf.getSocketAddr(addressKey, "127.0.0.1:0", 0);
    Server server = YarnRPC.create(conf).getServer(protocol, target, address, conf, checked, 4);
    server.start();
    return server;
  }

  // What clients ask of the resource manager.

  public GetClusterMetricsResponse getClusterMetrics(GetClusterMetricsRequest request) {
    return GetClusterMetricsResponse.newInstance(YarnClusterMetrics.newInstance(1));
  }

  public synchronized GetNewApplicationResponse getNewApplication(GetNewApplicationRequest request) {
    ApplicationId id = ApplicationId.newInstance(STARTED, apps.size() + 1);
    apps.put(id, new App());
    return GetNewApplicationResponse.newInstance(id, Resource.newInstance(1, 1), NODE);
  }

  public SubmitApplicationResponse submitApplication(SubmitApplicationRequest request) throws Exception {
    ApplicationSubmissionContext context = request.getApplicationSubmissionContext();
    App app = apps.get(context.getApplicationId());
    app.context = context;
    app.report.setApplicationId(context.getApplicationId());
    app.report.setName(context.getApplicationName());
    app.report.setQueue(context.getQueue());
    app.report.setUser(UserGroupInformation.getCurrentUser().getShortUserName());
    app.report.setApplicationType(context.getApplicationType());
    app.report.setStartTime(System.currentTimeMillis());
    app.report.setRpcPort(-1);
    say("SUBMITTED %s queue=%s name=%s", context.getApplicationId(), context.getQueue(), context.getApplicationName());
    setState(app, YarnApplicationState.ACCEPTED, FinalApplicationStatus.UNDEFINED);
    new Thread(() -> runMaster(app)).start();
    return SubmitApplicationResponse.newInstance();
  }

  public GetApplicationReportResponse getApplicationReport(GetApplicationReportRequest request) {
    return GetApplicationReportResponse.newInstance(apps.get(request.getApplicationId()).report);
  }

  public KillApplicationResponse forceKillApplication(KillApplicationRequest request) {
    setState(apps.get(request.getApplicationId()), YarnApplicationState.KILLED, FinalApplicationStatus.KILLED);
    stopAll(apps.get(request.getApplicationId()));
    return KillApplicationResponse.newInstance(true);
  }

  /** Starts the application master, again where it ends without a word, as often as the application and the cluster allow. */
  private void runMaster(App app) {
    int most = conf.getInt(YarnConfiguration.RM_AM_MAX_ATTEMPTS, YarnConfiguration.DEFAULT_RM_AM_MAX_ATTEMPTS);
    int allowed = app.context.getMaxAppAttempts() > 0 ? Math.min(most, app.context.getMaxAppAttempts()) : most;
    for (int number = 1; number <= allowed; number++) {
      ApplicationAttemptId attempt = ApplicationAttemptId.newInstance(app.context.getApplicationId(), number);
      app.report.setCurrentApplicationAttemptId(attempt);
      int code;
      try {
        ContainerLaunchContext launch = app.context.getAMContainerSpec();
        launch.getEnvironment().put(ApplicationConstants.APPLICATION_WEB_PROXY_BASE_ENV, "/proxy/" + app.context.getApplicationId());
        Credentials credentials = credentials(launch);
        AMRMTokenIdentifier identifier = new AMRMTokenIdentifier(attempt, 0);
        credentials.addToken(identifier.getKind(), new org.apache.hadoop.security.token.Token<>(identifier, masters));
        code = run(app, hold(app, attempt, app.context.getResource()), launch, credentials);
      } catch (Exception error) {
        throw new IllegalStateException(error);
      }
      stopAll(app);
      YarnApplicationState state = app.report.getYarnApplicationState();
      if (state == YarnApplicationState.FINISHED || state == YarnApplicationState.KILLED) {
        return;
      }
      app.report.setDiagnostics("the application master ended with " + code);
    }
    setState(app, YarnApplicationState.FAILED, FinalApplicationStatus.FAILED);
  }

  private static void setState(App app, YarnApplicationState state, FinalApplicationStatus status) {
    app.report.setFinalApplicationStatus(status);
    app.report.setYarnApplicationState(state);
    say("%s %s %s", state, app.context.getApplicationId(), status);
  }

  // What application masters ask of the resource manager.

  public RegisterApplicationMasterResponse registerApplicationMaster(RegisterApplicationMasterRequest request) throws Exception {
    App app = caller();
    app.report.setHost(request.getHost());
    app.report.setRpcPort(request.getRpcPort());
    app.report.setTrackingUrl(request.getTrackingUrl());
    setState(app, YarnApplicationState.RUNNING, FinalApplicationStatus.UNDEFINED);
    RegisterApplicationMasterResponse response = Records.newRecord(RegisterApplicationMasterResponse.class);
    response.setMaximumResourceCapability(NODE);
    response.setQueue(app.context.getQueue());
    return response;
  }

  public synchronized AllocateResponse allocate(AllocateRequest request) throws Exception {
    App app = caller();
    for (ContainerId id : request.getReleaseList()) {
      stop(id);
    }
    for (ResourceRequest asked : request.getAskList()) {
      if (asked.getResourceName().equals(ResourceRequest.ANY)) {
        app.asked.put(asked.getPriority() + " " + asked.getCapability() + " " + asked.getAllocationRequestId(), asked);
      }
    }
    List<Container> allocated = new ArrayList<>();
    List<NMToken> tokens = new ArrayList<>();
    for (ResourceRequest asked : app.asked.values()) {
      for (; asked.getNumContainers() > 0 && fits(asked.getCapability()); asked.setNumContainers(asked.getNumContainers() - 1)) {
        allocated.add(container(app, asked));
      }
    }
    if (!allocated.isEmpty()) {
      NMTokenIdentifier identifier = new NMTokenIdentifier(app.report.getCurrentApplicationAttemptId(), node, app.report.getUser(), 0);
      tokens.add(NMToken.newInstance(node, nodes.token(identifier, node.toString())));
    }
    List<ContainerStatus> ended = new ArrayList<>(app.ended);
    app.ended.clear();
    return AllocateResponse.newBuilder().responseId(request.getResponseId() + 1).numClusterNodes(1).allocatedContainers(allocated)
        .nmTokens(tokens).completedContainersStatuses(ended).updatedNodes(new ArrayList<>()).availableResources(NODE).build();
  }

  public FinishApplicationMasterResponse finishApplicationMaster(FinishApplicationMasterRequest request) throws Exception {
    App app = caller();
    app.report.setDiagnostics(request.getDiagnostics());
    app.report.setFinishTime(System.currentTimeMillis());
    setState(app, YarnApplicationState.FINISHED, request.getFinalApplicationStatus());
    return FinishApplicationMasterResponse.newInstance(true);
  }

  private App caller() throws Exception {
    for (TokenIdentifier identifier : UserGroupInformation.getCurrentUser().getTokenIdentifiers()) {
      if (identifier instanceof AMRMTokenIdentifier) {
        return apps.get(((AMRMTokenIdentifier) identifier).getApplicationAttemptId().getApplicationId());
      }
    }
    throw new YarnException("no application master's token");
  }

  private boolean fits(Resource wanted) {
    long used = apps.values().stream().flatMap(app -> app.held.values().stream()).mapToLong(Resource::getMemorySize).sum();
    return used + wanted.getMemorySize() <= NODE.getMemorySize();
  }

  private Container container(App app, ResourceRequest asked) {
    ContainerId id = hold(app, app.report.getCurrentApplicationAttemptId(), asked.getCapability());
    ContainerTokenIdentifier identifier = new ContainerTokenIdentifier(id, node.toString(), app.report.getUser(), asked.getCapability(),
        Long.MAX_VALUE, 0, STARTED, asked.getPriority(), System.currentTimeMillis());
    Token token = containers.token(identifier, node.toString());
    Container container = Container.newInstance(id, node, "127.0.0.1:0", asked.getCapability(), asked.getPriority(), token);
    container.setAllocationRequestId(asked.getAllocationRequestId());
    return container;
  }

  private synchronized ContainerId hold(App app, ApplicationAttemptId attempt, Resource resource) {
    ContainerId id = ContainerId.newContainerId(attempt, ++app.containers);
    app.held.put(id, resource);
    say("CONTAINER %s memory=%d cores=%d", id, resource.getMemorySize(), resource.getVirtualCores());
    return id;
  }

  private synchronized void release(App app, ContainerId id, int code) {
    say("EXIT %s %d", id, code);
    running.remove(id);
    app.held.remove(id);
    app.ended.add(ContainerStatus.newInstance(id, ContainerState.COMPLETE, "", code));
  }

  // What application masters ask of the node manager.

  public StartContainersResponse startContainers(StartContainersRequest request) throws Exception {
    List<ContainerId> started = new ArrayList<>();
    for (StartContainerRequest one : request.getStartContainerRequests()) {
      byte[] bytes = array(one.getContainerToken().getIdentifier());
      ContainerTokenIdentifier identifier = containers.createIdentifier();
      identifier.readFields(new java.io.DataInputStream(new java.io.ByteArrayInputStream(bytes)));
      if (!MessageDigest.isEqual(containers.retrievePassword(identifier), array(one.getContainerToken().getPassword()))) {
        throw new YarnException("a container's token that nobody gave out");
      }
      ContainerId id = identifier.getContainerID();
      Credentials credentials = credentials(one.getContainerLaunchContext());
      App app = apps.get(id.getApplicationAttemptId().getApplicationId());
      new Thread(() -> run(app, id, one.getContainerLaunchContext(), credentials)).start();
      started.add(id);
    }
    return StartContainersResponse.newInstance(new HashMap<>(), started, new HashMap<>());
  }

  public StopContainersResponse stopContainers(StopContainersRequest request) {
    request.getContainerIds().forEach(this::stop);
    return StopContainersResponse.newInstance(request.getContainerIds(), new HashMap<>());
  }

  private void stop(ContainerId id) {
    Process process = running.get(id);
    if (process != null) {
      process.destroy();
    }
  }

  private void stopAll(App app) {
    running.keySet().stream().filter(id -> id.getApplicationAttemptId().getApplicationId().equals(app.report.getApplicationId()))
        .forEach(this::stop);
  }

  private static byte[] array(ByteBuffer buffer) {
    byte[] bytes = new byte[buffer.remaining()];
    buffer.duplicate().get(bytes);
    return bytes;
  }

  private static Credentials credentials(ContainerLaunchContext launch) throws Exception {
    Credentials credentials = new Credentials();
    if (launch.getTokens() != null) {
      DataInputByteBuffer input = new DataInputByteBuffer();
      input.reset(launch.getTokens().duplicate());
      credentials.readTokenStorageStream(input);
    }
    return credentials;
  }

  /** A container's life, from its files to its exit code; -1000 is YARN's own for one that never started. */
  private int run(App app, ContainerId id, ContainerLaunchContext launch, Credentials credentials) {
    int code = -1000;
    try {
      code = launch(id, launch, credentials).waitFor();
    } catch (Exception error) {
      error.printStackTrace();
    }
    release(app, id, code);
    return code;
  }

  /** Localises a container's files, writes its script and starts it. */
  private Process launch(ContainerId id, ContainerLaunchContext launch, Credentials credentials) throws Exception {
    File folder = new File(root, "containers/" + id);
    File logs = new File(root, "logs/" + id);
    File local = new File(root, "local/" + id);
    File cache = new File(root, "cache/" + id);
    for (File needed : List.of(folder, logs, local, cache)) {
      Files.createDirectories(needed.toPath());
    }
    for (Map.Entry<String, LocalResource> entry : launch.getLocalResources().entrySet()) {
      Path into = new Path(cache.toString(), entry.getKey());
      File link = new File(folder, entry.getKey());  // --py-files have a folder in their names
      Files.createDirectories(new File(into.getParent().toString()).toPath());
      Files.createDirectories(link.getParentFile().toPath());
      Path found = new FSDownload(
          FileContext.getLocalFSFileContext(), UserGroupInformation.getCurrentUser(), conf, into, entry.getValue()).call();
      Files.createSymbolicLink(link.toPath(), java.nio.file.Path.of(found.toUri().getPath()));
    }
    File tokens = new File(folder, "container_tokens");
    credentials.writeTokenStorageFile(new Path(tokens.toURI()), conf);
    Map<String, String> environment = new java.util.LinkedHashMap<>(Map.of("CONTAINER_ID", id.toString(), "NM_HOST", "127.0.0.1",
        "NM_PORT", "" + node.getPort(), "NM_HTTP_PORT", "0", "LOCAL_DIRS", local.toString(), "LOG_DIRS", logs.toString(),
        "USER", System.getProperty("user.name"), "HOME", System.getProperty("user.home"),
        "HADOOP_TOKEN_FILE_LOCATION", tokens.toString()));
    environment.putAll(launch.getEnvironment());
    StringBuilder script = new StringBuilder();
    environment.forEach((name, value) ->
        script.append("export ").append(name).append("=\"").append(expand(value, logs).replace("\"", "\\\"")).append("\"\n"));
    script.append("exec ").append(expand(String.join(" ", launch.getCommands()), logs)).append("\n");
    File file = new File(folder, "launch_container.sh");
    Files.writeString(file.toPath(), script);
    ProcessBuilder builder = new ProcessBuilder("bash", file.toString()).directory(folder);
    builder.environment().keySet().retainAll(List.of("PATH", "JAVA_HOME", "LANG", "HADOOP_CONF_DIR"));
    Process process = builder.redirectErrorStream(true).redirectOutput(new File(logs, "script")).start();
    running.put(id, process);
    return process;
  }

  /** The placeholders by which clients leave paths to the node. */
  private static String expand(String text, File logs) {
    return text.replace("<LOG_DIR>", logs.toString()).replace("<CPS>", File.pathSeparator).replace("{{", "$").replace("}}", "");
  }
}
