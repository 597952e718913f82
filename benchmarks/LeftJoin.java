import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Arrays;
import java.util.Properties;
import org.apache.avro.Schema;
import org.apache.avro.generic.GenericDatumReader;
import org.apache.avro.generic.GenericRecord;
import org.apache.avro.io.DecoderFactory;
import org.apache.kafka.common.serialization.Deserializer;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.JoinWindows;
import org.apache.kafka.streams.kstream.KStream;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.kstream.StreamJoined;
import org.apache.kafka.streams.processor.TimestampExtractor;

/**
 * The join of the benchmark in Kafka Streams: a left stream-stream join with RocksDB and changelogs.
 *
 * Every payload is decoded once, to learn its time; the stores keep the bytes as they came and
 * decode nothing. An example is the decision's Avro datum and one byte for the boolean label, which
 * is again valid Avro, so that nothing has to be encoded either. Decisions have at most one click
 * here, so no aggregation follows.
 */
public final class LeftJoin {
  private static final int PREFIX_BYTES = 10; // of an Avro single object

  /** A payload, and the event in it once somebody asks. */
  static final class Event {
    final byte[] payload;
    private GenericRecord record;

    Event(byte[] payload) {
      this.payload = payload;
    }

    GenericRecord record(GenericDatumReader<GenericRecord> reader) {
      if (record == null) {
        var body = DecoderFactory.get()
            .binaryDecoder(payload, PREFIX_BYTES, payload.length - PREFIX_BYTES, null);
        try {
          record = reader.read(null, body);
        } catch (IOException error) {
          throw new UncheckedIOException(error);
        }
      }
      return record;
    }
  }

  private static Serde<Event> events() {
    Deserializer<Event> deserializer = (topic, bytes) -> bytes == null ? null : new Event(bytes);
    return Serdes.serdeFrom((topic, event) -> event == null ? null : event.payload, deserializer);
  }

  /** Returns the event time in milliseconds, as Kafka has it; the whole event is decoded for it. */
  private static TimestampExtractor at(Path schema) throws IOException {
    var reader =
        new GenericDatumReader<GenericRecord>(new Schema.Parser().parse(Files.readString(schema)));
    return (record, partitionTime) ->
        (Long) ((Event) record.value()).record(reader).get("at") / 1000;
  }

  private static byte[] example(Event decision, Event click) {
    byte[] made = Arrays.copyOfRange(decision.payload, PREFIX_BYTES, decision.payload.length + 1);
    made[made.length - 1] = (byte) (click == null ? 0 : 1);
    return made;
  }

  /** Arguments: a properties file for Streams that also has the names under `bench.`. */
  public static void main(String[] arguments) throws Exception {
    var settings = new Properties();
    try (var file = Files.newBufferedReader(Path.of(arguments[0]))) {
      settings.load(file);
    }
    var keys = Serdes.ByteArray();
    var builder = new StreamsBuilder();
    KStream<byte[], Event> decisions = builder.stream(
        settings.getProperty("bench.decisions"),
        Consumed.with(keys, events())
            .withTimestampExtractor(at(Path.of(settings.getProperty("bench.decision.schema")))));
    KStream<byte[], Event> clicks = builder.stream(
        settings.getProperty("bench.feedback"),
        Consumed.with(keys, events())
            .withTimestampExtractor(at(Path.of(settings.getProperty("bench.feedback.schema")))));
    var within = Duration.parse(settings.getProperty("bench.within"));
    var grace = Duration.parse(settings.getProperty("bench.grace"));
    decisions
        .leftJoin(
            clicks,
            LeftJoin::example,
            JoinWindows.ofTimeDifferenceAndGrace(within, grace).before(Duration.ZERO),
            StreamJoined.with(keys, events(), events()))
        .to(settings.getProperty("bench.examples"), Produced.with(keys, keys));

    var streams = new KafkaStreams(builder.build(new Properties()), new StreamsConfig(settings));
    streams.setStateListener((now, before) -> System.out.println(now));
    streams.setUncaughtExceptionHandler(error -> {
      error.printStackTrace();
      return org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler
          .StreamThreadExceptionResponse.SHUTDOWN_APPLICATION;
    });
    Runtime.getRuntime().addShutdownHook(new Thread(streams::close));
    streams.start();
  }
}
