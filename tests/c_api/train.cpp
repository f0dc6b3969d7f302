// hybridq from C++17: products, clusters, the hybrid optimizer, training and generating. Argument: a text file.
#include <hybridq.hpp>

#include <cmath>
#include <cstdio>
#include <fstream>
#include <stdexcept>
#include <string>

#include "iris.h"

namespace {

void expect(bool condition, const char *what) {
    if (!condition) throw std::logic_error(what);
}

template <class Function>
hq_status status_of(Function function) {
    try {
        function();
    } catch (const hybridq::error &error) {
        std::printf("an error reads: %s\n", error.what());
        return error.status();
    }
    return HQ_OK;
}

void multiply(const hybridq::context &context) {
    const std::size_t rows = 70, cols = 130, tokens = 3;
    std::vector<float> weights(rows * cols), x(tokens * cols);
    for (std::size_t i = 0; i < weights.size(); i++) weights[i] = std::sin(0.7f * static_cast<float>(i));
    for (std::size_t i = 0; i < x.size(); i++) x[i] = std::cos(0.3f * static_cast<float>(i));
    const hybridq::ternary_matrix matrix(context, weights, rows, cols, HQ_SCALE_PER_ROW);
    const auto quantized = hybridq::quantize_rows(context, x, tokens, cols);
    const auto y = matrix.multiply(context, quantized);
    const auto trits = matrix.unpack(context);
    for (std::size_t i = 0; i < y.size(); i++) {
        const std::size_t token = i / rows, row = i % rows;
        int sum = 0;
        for (std::size_t k = 0; k < cols; k++) sum += quantized.values[token * cols + k] * trits[row * cols + k];
        const double exact = static_cast<double>(sum) * quantized.scales[token] * matrix.scales()[row];
        expect(std::fabs(y[i] - exact) <= 1e-4, "a product equals the plain loops'");
    }
    std::printf("%zu x %zu weights in %zu bytes\n", rows, cols, matrix.packed().size());
    weights[3] = NAN;
    expect(status_of([&] { hybridq::ternary_matrix(context, weights, rows, cols); }) == HQ_NOT_FINITE, "NaN is refused");
    expect(status_of([&] { hybridq::quantize_rows(context, x, tokens, cols + 1); }) == HQ_SHAPE, "sizes are checked");
}

void choose(const hybridq::context &context) {
    const auto tuned = context.configured("[operations.norm]\nserial_below = 1000");
    expect(tuned.choose("norm", 999).parallel == 0, "small calls stay on the calling thread");
    expect(tuned.configured(tuned.thresholds()).thresholds() == tuned.thresholds(), "thresholds read back");
    tuned.time_calls(true);
    float values[4] = {3, 4, 0, 0};
    hybridq::clip_norm(tuned, values, 1.0);
    const auto calls = tuned.calls();
    expect(!calls.empty() && calls[0].count == 1, "calls are counted");
    for (const auto &line : tuned.advice()) std::printf("advice: %s\n", line.c_str());
    expect(status_of([&] { tuned.choose("dance", 1); }) == HQ_INVALID_VALUE, "operations have names");
    expect(status_of([&] { tuned.loaded("no/such/file"); }) == HQ_IO, "a cache file must be there");
    const auto stop = [](const std::string &) { return false; };
    expect(status_of([&] { tuned.calibrated("", stop); }) == HQ_CANCELLED, "calibration can be stopped");
}

void cluster(const hybridq::context &context) {
    std::vector<float> points;
    for (const auto &flower : iris)
        for (int feature = 0; feature < IRIS_FEATURES; feature++) points.push_back(0.1f * flower[feature]);
    hybridq::kmeans fitted(context, points, IRIS_FEATURES, IRIS_CLASSES, 1);
    hybridq::kmeans moved = std::move(fitted);
    expect(moved.labels() == moved.predict(context, points), "labels are those of the nearest centroids");
    std::printf("iris: inertia %.3f\n", moved.info().inertia);
    expect(moved.info().inertia < 79.0, "the clusters are the known ones");
}

// Logistic regression of one species against the others; gives the training loss at the end.
double regress(const hybridq::context &context, const char *config) {
    hybridq::parameters parameters({{"weight", {1, IRIS_FEATURES}}, {"bias", {1}, HQ_PARAMETER_BIAS}});
    hybridq::optimizer optimizer(parameters, config);
    const auto weight = parameters.weights(0), bias = parameters.weights(1);
    const double rows = static_cast<double>(IRIS_ROWS);
    double loss = 0.0;
    for (std::uint64_t step = 0; step < 300; step++) {
        parameters.zero_gradients();
        const auto weight_gradient = parameters.gradients(0), bias_gradient = parameters.gradients(1);
        loss = 0.0;
        for (const auto &flower : iris) {
            double z = bias[0];
            for (int f = 0; f < IRIS_FEATURES; f++) z += weight[f] * 0.01f * flower[f];
            const double target = flower[IRIS_FEATURES] == 2, p = 1.0 / (1.0 + std::exp(-z));
            loss -= (target * std::log(p + 1e-12) + (1.0 - target) * std::log(1.0 - p + 1e-12)) / rows;
            const float d = static_cast<float>((p - target) / rows);
            for (int f = 0; f < IRIS_FEATURES; f++) weight_gradient[f] += d * 0.01f * flower[f];
            bias_gradient[0] += d;
        }
        auto state = hybridq::make<hq_training_state>();
        state.step = step;
        state.loss = static_cast<float>(loss);
        state.learning_rate = 0.05f;
        optimizer.step(context, parameters, state);
    }
    return loss;
}

std::string write_text(hybridq::trainer &trainer, const char *prompt) {
    auto options = hybridq::make<hq_generate_options>();
    options.tokens = 40;
    std::string text;
    trainer.generate(prompt, options, [&](const std::string &piece) {
        text += piece;
        return true;
    });
    return text;
}

void train(const hybridq::context &context, const std::string &file) {
    std::ofstream("model.json") << R"({"model_type": "bitnet", "hidden_size": 64, "intermediate_size": 128,
        "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 256, "max_position_embeddings": 64,
        "hidden_act": "silu"})";
    const std::string json = "{\"data\": \"" + file + "\", \"model\": \"model.json\", \"seq_length\": 64, "
                             "\"batch_size\": 4, \"max_steps\": 60, \"base_learning_rate\": 0.01, \"seed\": 1}";
    hybridq::trainer trainer(context, json);
    const double before = trainer.evaluate();
    int steps = 0;
    trainer.on_progress([&](const hq_progress &progress) {
        steps += progress.kind == HQ_PROGRESS_STEP;
        return true;
    });
    for (int step = 0; step < 10; step++) trainer.step();
    trainer.run();
    const double after = trainer.evaluate();
    std::printf("%d steps: validation loss %.4f -> %.4f nats per token\n", steps, before, after);
    expect(steps == 60 && after < before - 0.5, "sixty steps lower the loss");

    trainer.save("checkpoint.safetensors");
    hybridq::trainer restored(context, json);
    restored.load("checkpoint.safetensors");
    expect(restored.evaluate() == after, "a restored trainer evaluates to the same bits");
    const std::string text = write_text(trainer, "pub fn ");
    expect(!text.empty() && text == write_text(restored, "pub fn "), "both write the same text");
    std::printf("it writes: %s\n", text.c_str());

    trainer.save_model("model");
    auto model = hybridq::model::load(context, "model");
    std::string again;
    auto options = hybridq::make<hq_generate_options>();
    options.tokens = 40;
    model.generate(context, "pub fn ", options, [&](const std::string &piece) { return again += piece, true; });
    expect(again == text && model.encode("abc") == std::vector<std::uint32_t>({97, 98, 99}), "a loaded model writes it too");
    expect(model.info().vocabulary == 256 && model.config().find("bitnet") != std::string::npos, "a model tells its sizes");

    // An exception out of a callback comes through the library unchanged.
    bool caught = false;
    try {
        model.generate(context, "a", options, [](const std::string &) -> bool { throw std::range_error("mine"); });
    } catch (const std::range_error &error) {
        caught = std::string(error.what()) == "mine";
    }
    expect(caught, "a callback's exception arrives");
    expect(status_of([&] { hybridq::trainer(context, "{\"no_such_key\": 1}"); }) == HQ_INVALID_VALUE, "unknown key");
    expect(status_of([&] { restored.load("missing.safetensors"); }) == HQ_IO, "missing file");
}

// An encoder learns whether a sequence has more of one letter than of the other.
void classify(const hybridq::context &context) {
    auto encoder = hybridq::model::create(
        context, R"({"model_type": "bert", "vocab_size": 256, "hidden_size": 32, "intermediate_size": 64,
        "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 16, "hidden_dropout_prob": 0.0,
        "initializer_range": 0.1})", 1);
    auto model = encoder.with_head(context, HQ_HEAD_SEQUENCE_CLASSIFICATION, {"a", "b"}, 2);
    expect(model.label(1) == "b" && model.info().head == HQ_HEAD_SEQUENCE_CLASSIFICATION, "labels have names");
    model.save("classifier");
    const auto fill = [](std::uint64_t number, std::uint32_t *tokens) {
        std::uint32_t count = 0;
        for (std::uint64_t t = 0; t < 9; t++) count += tokens[t] = 1 & static_cast<std::uint32_t>(number * 40503 >> (t + 3));
        for (std::uint64_t t = 0; t < 9; t++) tokens[t] += 97;
        return count > 4 ? 1u : 0u;
    };
    auto source = hybridq::make<hq_batch_source>();
    source.examples = 3000;
    source.identity = "letters";
    const std::string json = R"({"init": "classifier", "seq_length": 9, "batch_size": 16, "max_steps": 150,
        "base_learning_rate": 0.003, "warmup_steps": 10, "use_quantization": false})";
    hybridq::trainer trainer(context, json, source, [&](const hq_batch_buffers &batch) {
        for (std::uint64_t i = 0; i < batch.count; i++) batch.targets[i] = fill(batch.examples[i], batch.tokens + 9 * i);
    });
    trainer.run();
    trainer.save_model("trained");
    auto trained = hybridq::model::load(context, "trained");
    std::vector<std::uint32_t> tokens(9 * 50), targets(50);
    for (std::uint64_t i = 0; i < 50; i++) targets[i] = fill(5000 + i, tokens.data() + 9 * i);
    auto batch = hybridq::batch(50, tokens);
    const auto logits = trained.predict(context, batch);
    int right = 0;
    for (std::size_t i = 0; i < 50; i++) right += (logits[2 * i + 1] > logits[2 * i]) == (targets[i] == 1);
    std::printf("classifier: %d of 50 right, loss %.3f\n", right, trained.loss(context, batch.targets(targets)));
    std::size_t layers = 0;
    trained.attention(context, batch, [&](std::size_t, std::size_t heads, std::size_t, std::size_t, const float *) {
        return ++layers, heads == 2;
    });
    expect(right >= 45 && layers == 1, "the classifier has learned");
    hybridq::trainer broken(context, json, source, [](const hq_batch_buffers &) { throw std::range_error("mine"); });
    bool caught = false;
    try {
        broken.step();
    } catch (const std::range_error &) {
        caught = true;
    }
    expect(caught, "a batch function's exception arrives");
}

// A recurrent model with an optimizer of the program's own.
void own_loop(const hybridq::context &context) {
    auto model = hybridq::model::create(
        context, R"({"model_type": "gru", "vocab_size": 16, "hidden_size": 16, "num_hidden_layers": 1,
        "initializer_range": 0.3})", 1);
    auto parameters = model.shared_parameters();
    hybridq::optimizer optimizer(parameters);
    hybridq::decoder state(model, 1, 4096);
    const std::vector<std::uint32_t> tokens = {1, 5, 2, 1, 5, 2}, targets = {5, 2, 1, 5, 2, 1};
    auto batch = hybridq::batch(1, tokens);
    batch.targets(targets);
    double first = 0.0, last = 0.0;
    for (std::uint64_t step = 0; step < 100; step++) {
        parameters.zero_gradients();
        last = model.step(context, batch, hybridq::make<hq_step_options>(), &state);
        if (step == 0) first = last;
        auto training = hybridq::make<hq_training_state>();
        training.step = step;
        training.loss = static_cast<float>(last);
        training.learning_rate = 0.02f;
        optimizer.step(context, parameters, training);
        parameters.quantize(context);
    }
    state.truncate(0);
    const auto logits = state.read(model, context, hybridq::span<const std::uint32_t>(tokens.data(), 2));
    std::printf("own loop: loss %.3f -> %.3f\n", first, last);
    expect(last < 0.3 * first && logits.size() == 16 && logits[2] > logits[1], "the loop has learned");
}

}  // namespace

int main(int argc, char **argv) {
    if (argc != 2) {
        std::fprintf(stderr, "usage: train TEXT_FILE\n");
        return 2;
    }
    try {
        hybridq::context context;
        std::printf("libhybridq %s, %u threads, %s\n", hybridq::version().c_str(), context.threads(), context.isa().c_str());
        multiply(context);
        choose(context);
        cluster(context);
        classify(context);
        own_loop(context);
        const double hybrid = regress(context, "{\"inner\": \"sgd\", \"initial_trust_radius\": 0.1}");
        const double sgd = regress(context, "{\"optimizer\": \"sgd\"}");
        std::printf("logistic regression: hybrid %.4f, sgd %.4f nats\n", hybrid, sgd);
        expect(hybrid < sgd, "the hybrid optimizer ends lower");
        train(context, argv[1]);
    } catch (const std::exception &error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
    std::puts("all checks passed");
    return 0;
}
