// Trains a small ternary model on the text file named on the command line, saves it, loads it and lets it write.
#include <hybridq.h>

#include <cmath>
#include <cstdio>
#include <fstream>
#include <memory>
#include <stdexcept>
#include <string>

namespace {

void check(hq_status status) {
    if (status != HQ_OK) throw std::runtime_error(hq_last_error());
}

void expect(bool condition, const char *what) {
    if (!condition) throw std::logic_error(what);
}

struct Free {
    void operator()(hq_context *context) const { hq_context_free(context); }
    void operator()(hq_trainer *trainer) const { hq_trainer_free(trainer); }
};
using Context = std::unique_ptr<hq_context, Free>;
using Trainer = std::unique_ptr<hq_trainer, Free>;

Trainer make_trainer(const hq_context *context, const std::string &json) {
    hq_trainer *trainer = nullptr;
    check(hq_trainer_new(context, json.c_str(), &trainer));
    return Trainer(trainer);
}

// Called for each piece of text; a result other than 0 stops the generation.
int32_t append(const char *piece, size_t bytes, void *text) {
    static_cast<std::string *>(text)->append(piece, bytes);
    return 0;
}

std::string write_text(Trainer &trainer, const char *prompt) {
    hq_generate_options options = {};
    options.struct_size = sizeof options;
    options.tokens = 40;
    std::string text;
    check(hq_trainer_generate(trainer.get(), prompt, &options, append, &text));
    return text;
}

void run(const std::string &file) {
    hq_context *raw = nullptr;
    check(hq_context_new(nullptr, &raw));
    Context context(raw);
    std::ofstream("model.json") << R"({"model_type": "bitnet", "hidden_size": 64, "intermediate_size": 128,
        "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 256, "max_position_embeddings": 64,
        "hidden_act": "silu"})";
    const std::string json = "{\"data\": \"" + file + "\", \"model\": \"model.json\", \"seq_length\": 64, "
                             "\"batch_size\": 4, \"max_steps\": 60, \"base_learning_rate\": 0.01, \"seed\": 1}";
    Trainer trainer = make_trainer(context.get(), json);
    double before = 0.0, after = 0.0;
    check(hq_trainer_evaluate(trainer.get(), &before));
    hq_step_report report = {};
    report.struct_size = sizeof report;
    for (int step = 0; step < 60; step++) check(hq_trainer_step(trainer.get(), &report));
    check(hq_trainer_evaluate(trainer.get(), &after));
    std::printf("step %llu: validation loss %.4f -> %.4f nats per token\n",
                static_cast<unsigned long long>(report.step), before, after);
    expect(after < before - 0.5, "sixty steps lower the loss");

    check(hq_trainer_save(trainer.get(), "checkpoint.safetensors"));
    Trainer restored = make_trainer(context.get(), json);
    check(hq_trainer_load(restored.get(), "checkpoint.safetensors"));
    double again = 0.0;
    check(hq_trainer_evaluate(restored.get(), &again));
    expect(again == after, "a restored trainer evaluates to the same bits");
    const std::string text = write_text(trainer, "pub fn ");
    expect(!text.empty() && text == write_text(restored, "pub fn "), "both write the same text");
    std::printf("it writes: %s\n", text.c_str());

    hq_trainer *none = nullptr;
    expect(hq_trainer_new(context.get(), "{\"no_such_key\": 1}", &none) == HQ_INVALID_VALUE && !none, "unknown key");
    std::printf("an error reads: %s\n", hq_last_error());
    expect(hq_trainer_load(restored.get(), "missing.safetensors") == HQ_IO, "missing file");
}

}  // namespace

int main(int argc, char **argv) {
    if (argc != 2) {
        std::fprintf(stderr, "usage: train TEXT_FILE\n");
        return 2;
    }
    try {
        run(argv[1]);
    } catch (const std::exception &error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
    std::puts("all checks passed");
    return 0;
}
