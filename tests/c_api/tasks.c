/* Models that are no decoders: an encoder that classifies, an encoder-decoder that writes, a recurrent model with an optimizer
   of the program's own; and files for others. */
#include "check.h"
#include <hybridq.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void write_file(const char *path, const char *text) {
    FILE *file = fopen(path, "w");
    CHECK(file != NULL && fputs(text, file) >= 0 && fclose(file) == 0);
}

static hq_model_info info_of(const hq_model *model) {
    hq_model_info info = {0};
    info.struct_size = sizeof info;
    CHECK(hq_model_get_info(model, &info) == HQ_OK);
    return info;
}

/* ---- An encoder tells whether a word goes up or down the alphabet. ---- */

enum { LENGTH = 12 };

/* Word number `i`: `*length` letters, up or down. */
static uint32_t word(uint64_t i, uint32_t *tokens, uint32_t *length) {
    uint32_t down = (uint32_t)(i * 2654435761u >> 7) & 1;
    *length = 4 + (uint32_t)(i * 7 + i / 11) % (LENGTH - 4);
    uint32_t step = 1 + (uint32_t)(i / 3) % 2, first = 97 + (uint32_t)(i * 13) % (26 - step * (*length - 1) % 26);
    for (uint32_t t = 0; t < *length; t++) {
        uint32_t place = down ? *length - 1 - t : t;
        tokens[t] = 97 + (first - 97 + step * place) % 26;
    }
    return down;
}

static int32_t words(const hq_batch_buffers *batch, void *user_data) {
    (void)user_data;
    CHECK(batch->struct_size >= sizeof *batch && batch->length == LENGTH && batch->targets_len == batch->count);
    CHECK(batch->values == NULL && batch->source == NULL && batch->token_types != NULL && batch->lengths != NULL);
    for (uint64_t i = 0; i < batch->count; i++) {
        uint64_t number = batch->examples[i] + (batch->split == HQ_SPLIT_VALIDATION ? 5000 : 0);
        batch->targets[i] = word(number, batch->tokens + i * LENGTH, &batch->lengths[i]);
    }
    return 0;
}

static int32_t sums_to_one(size_t layer, size_t heads, size_t queries, size_t keys, const float *weights,
                           void *user_data) {
    size_t *layers = user_data;
    CHECK(layer == (*layers)++ && heads == 2 && queries == LENGTH && keys == LENGTH);
    for (size_t row = 0; row < 20 * heads * queries; row++) {
        double sum = 0.0;
        for (size_t key = 0; key < keys; key++) sum += (double)weights[row * keys + key];
        CHECK(fabs(sum - 1.0) < 1e-4);
    }
    return 0;
}

static void encoder(const hq_context *context) {
    hq_model *pretrained = NULL, *start = NULL, *model = NULL;
    CHECK(hq_model_new(context,
                       "{\"model_type\": \"bert\", \"architectures\": [\"BertForMaskedLM\"], \"vocab_size\": 256,"
                       " \"hidden_size\": 32, \"intermediate_size\": 64, \"num_hidden_layers\": 2,"
                       " \"num_attention_heads\": 2, \"max_position_embeddings\": 16, \"hidden_dropout_prob\": 0.0,"
                       " \"initializer_range\": 0.1}",
                       3, &pretrained) == HQ_OK);
    CHECK(info_of(pretrained).head == HQ_HEAD_MASKED_LANGUAGE_MODEL);
    const char *labels[] = {"up", "down"};
    CHECK(hq_model_with_head(pretrained, context, HQ_HEAD_SEQUENCE_CLASSIFICATION, labels, 0, 4, &start) ==
          HQ_INVALID_VALUE);
    CHECK(hq_model_with_head(pretrained, context, HQ_HEAD_SEQ2SEQ, labels, 2, 4, &start) == HQ_INVALID_VALUE);
    CHECK(hq_model_with_head(pretrained, context, HQ_HEAD_SEQUENCE_CLASSIFICATION, labels, 2, 4, &start) == HQ_OK);
    char name[8];
    size_t length = 0;
    CHECK(hq_model_label(start, 1, name, sizeof name, &length) == HQ_OK && strcmp(name, "down") == 0 && length == 4);
    CHECK(hq_model_label(start, 2, name, sizeof name, &length) == HQ_INVALID_VALUE);
    CHECK(hq_model_save(start, "encoder") == HQ_OK);
    /* It writes no text. */
    hq_decoder *decoder = NULL;
    CHECK(hq_decoder_new(start, 1, 8, &decoder) == HQ_INVALID_VALUE);
    CHECK(hq_model_generate(start, context, "a", NULL, NULL, NULL) == HQ_NULL_POINTER);
    hq_model_free(start);
    hq_model_free(pretrained);

    hq_batch_source source = {0};
    source.struct_size = sizeof source;
    source.examples = 2000;
    source.held_out = 100;
    source.read = words;
    source.identity = "words";
    hq_trainer *trainer = NULL;
    const char *config = "{\"init\": \"encoder\", \"seq_length\": 12, \"batch_size\": 16, \"max_steps\": 150,"
                         " \"base_learning_rate\": 0.003, \"warmup_steps\": 10, \"use_quantization\": false}";
    source.source_length = 3;
    CHECK(hq_trainer_new_with_batches(context, config, &source, &trainer) == HQ_INVALID_VALUE);
    source.source_length = 0;
    CHECK(hq_trainer_new_with_batches(context, config, &source, &trainer) == HQ_OK);
    double before = 0.0, after = 0.0;
    CHECK(hq_trainer_evaluate(trainer, &before) == HQ_OK && hq_trainer_run(trainer, NULL) == HQ_OK);
    CHECK(hq_trainer_evaluate(trainer, &after) == HQ_OK);
    CHECK(hq_trainer_save_model(trainer, "up-or-down") == HQ_OK);
    hq_trainer_free(trainer);

    CHECK(hq_model_load(context, "up-or-down", &model) == HQ_OK);
    CHECK(info_of(model).head == HQ_HEAD_SEQUENCE_CLASSIFICATION && info_of(model).labels == 2);
    static uint32_t tokens[100 * LENGTH], targets[100], lengths[100];
    for (uint64_t i = 0; i < 100; i++) targets[i] = word(9000 + i, tokens + i * LENGTH, &lengths[i]);
    hq_batch batch = {0};
    batch.struct_size = sizeof batch;
    batch.sequences = 100;
    batch.tokens = tokens;
    batch.tokens_len = 100 * LENGTH;
    batch.lengths = lengths;
    size_t count = 0;
    float outputs[200];
    CHECK(hq_model_output_count(model, 100, LENGTH, &count) == HQ_OK && count == 200);
    CHECK(hq_model_predict(model, context, &batch, outputs, 199) == HQ_SHAPE);
    CHECK(hq_model_predict(model, context, &batch, outputs, 200) == HQ_OK);
    int right = 0;
    double expected = 0.0;
    for (int i = 0; i < 100; i++) {
        double down = (double)outputs[2 * i + 1] - (double)outputs[2 * i];
        right += (down > 0.0) == (targets[i] == 1);
        expected += log1p(exp(targets[i] == 1 ? -down : down)) / 100.0;
    }
    printf("encoder: held-out loss %.3f -> %.3f; %d of 100 words told right\n", before, after, right);
    CHECK(right >= 95 && after < 0.3 * before);
    double loss = 0.0;
    CHECK(hq_model_target_count(model, 100, LENGTH, &count) == HQ_OK && count == 100);
    batch.targets = targets;
    batch.targets_len = 99;
    CHECK(hq_model_loss(model, context, &batch, &loss) == HQ_SHAPE);
    batch.targets_len = 100;
    CHECK(hq_model_loss(model, context, &batch, &loss) == HQ_OK && fabs(loss - expected) < 1e-5);
    size_t layers = 0;
    batch.sequences = 20;
    batch.tokens_len = 20 * LENGTH;
    CHECK(hq_model_attention(model, context, &batch, sums_to_one, &layers) == HQ_OK && layers == 2);
    batch.tokens_len = 21 * LENGTH - 1;
    CHECK(hq_model_attention(model, context, &batch, sums_to_one, &layers) == HQ_SHAPE);
    hq_model_free(model);
}

/* ---- An encoder-decoder writes numbers backwards. ---- */

enum { DIGITS = 6, START = 1, END = 2 };

static void number(uint64_t i, uint32_t *digits, uint32_t *length) {
    uint64_t state = i * 6364136223846793005u + 1442695040888963407u;
    *length = 2 + (uint32_t)(state >> 60) % (DIGITS - 1);
    for (uint32_t t = 0; t < *length; t++) digits[t] = 48 + (uint32_t)(state >> (5 * t + 20)) % 4;
}

static int32_t numbers(const hq_batch_buffers *batch, void *user_data) {
    (void)user_data;
    CHECK(batch->source_length == DIGITS && batch->source != NULL && batch->token_types == NULL);
    for (uint64_t i = 0; i < batch->count; i++) {
        uint32_t *source = batch->source + i * DIGITS, *tokens = batch->tokens + i * batch->length;
        uint32_t *targets = batch->targets + i * batch->length, length;
        number(batch->examples[i], source, &length);
        batch->lengths[i] = length;
        for (uint64_t t = 0; t < batch->length; t++) {
            targets[t] = t < length ? source[length - 1 - t] : t == length ? END : UINT32_MAX;
            tokens[t] = t == 0 ? START : t <= length ? targets[t - 1] : END;
        }
    }
    return 0;
}

static void encoder_decoder(const hq_context *context) {
    write_file("bart.json",
               "{\"model_type\": \"bart\", \"vocab_size\": 256, \"d_model\": 32, \"encoder_layers\": 1,"
               " \"encoder_ffn_dim\": 64, \"encoder_attention_heads\": 2, \"decoder_layers\": 1, \"decoder_ffn_dim\": 64,"
               " \"decoder_attention_heads\": 2, \"max_position_embeddings\": 16, \"decoder_start_token_id\": 1,"
               " \"bos_token_id\": 1, \"eos_token_id\": 2, \"dropout\": 0.0, \"init_std\": 0.1}");
    hq_batch_source source = {0};
    source.struct_size = sizeof source;
    source.examples = 3000;
    source.read = numbers;
    source.identity = "numbers";
    source.source_length = DIGITS;
    hq_trainer *trainer = NULL;
    CHECK(hq_trainer_new_with_batches(context,
                                      "{\"model\": \"bart.json\", \"seq_length\": 7, \"batch_size\": 32,"
                                      " \"max_steps\": 700, \"base_learning_rate\": 0.004, \"warmup_steps\": 20,"
                                      " \"use_quantization\": false}",
                                      &source, &trainer) == HQ_OK);
    CHECK(hq_trainer_run(trainer, NULL) == HQ_OK && hq_trainer_save_model(trainer, "backwards") == HQ_OK);
    hq_trainer_free(trainer);
    hq_model *model = NULL;
    CHECK(hq_model_load(context, "backwards", &model) == HQ_OK && info_of(model).head == HQ_HEAD_SEQ2SEQ);
    hq_decoder *decoder = NULL;
    CHECK(hq_decoder_new(model, 1, 8, &decoder) == HQ_OK);
    static float logits[256];
    const uint32_t start = START;
    CHECK(hq_decoder_read(decoder, model, context, &start, 1, logits, 256) == HQ_INVALID_VALUE);
    hq_beam_options beams = {0};
    beams.struct_size = sizeof beams;
    beams.beams = 3;
    beams.tokens = 8;
    beams.length_penalty = 1.0f;
    int right = 0;
    for (uint64_t i = 0; i < 50; i++) {
        uint32_t digits[DIGITS], length, greedy[16], best[8], token = START;
        size_t count = 0, best_count = 0;
        double probability = 0.0, best_probability = 0.0;
        number(7000 + i, digits, &length);
        CHECK(hq_model_translate(model, context, digits, length, NULL, greedy, 16, &count, &probability) == HQ_OK);
        CHECK(hq_model_translate(model, context, digits, length, &beams, best, 8, &best_count, &best_probability) == HQ_OK);
        /* Step by step the same text. */
        double sum = 0.0;
        CHECK(hq_decoder_set_source(decoder, model, digits, length, NULL) == HQ_OK);
        for (size_t t = 0; t < count && t < 8; t++) {
            CHECK(hq_decoder_read(decoder, model, context, &token, 1, logits, 256) == HQ_OK);
            double total = 0.0;
            token = 0;
            for (uint32_t id = 0; id < 256; id++) {
                if (logits[id] > logits[token]) token = id;
                total += exp((double)logits[id]);
            }
            sum += (double)logits[token] - log(total);
            CHECK(token == greedy[t]);
        }
        if (count <= 8) CHECK(fabs(sum - probability) < 1e-3);
        int equal = best_count == length + 1;
        for (uint32_t t = 0; equal && t < length; t++) equal = best[t] == digits[length - 1 - t];
        right += equal;
    }
    printf("encoder-decoder: %d of 50 numbers written backwards\n", right);
    CHECK(right >= 40);
    uint32_t tokens[16];
    size_t count = 0;
    CHECK(hq_model_translate(model, context, tokens, 0, NULL, tokens, 16, &count, NULL) == HQ_INVALID_VALUE);
    CHECK(hq_model_translate(model, context, &start, 1, NULL, tokens, 15, &count, NULL) == HQ_SHAPE);
    CHECK(hq_decoder_set_source(decoder, model, &start, 0, NULL) == HQ_SHAPE);
    hq_decoder_free(decoder);
    hq_model_free(model);
}

/* ---- A recurrent model, its state carried from batch to batch, with an optimizer of the program's own. ---- */

static void recurrent(const hq_context *context) {
    hq_model *model = NULL;
    CHECK(hq_model_new(context,
                       "{\"model_type\": \"lstm\", \"vocab_size\": 64, \"hidden_size\": 24, \"num_hidden_layers\": 1,"
                       " \"initializer_range\": 0.2, \"precision\": \"ternary\"}",
                       5, &model) == HQ_OK);
    enum { ROWS = 4, STEPS = 8 };
    /* Each row repeats three letters of its own. */
    uint32_t text[ROWS][4 * STEPS + 1];
    for (uint32_t row = 0; row < ROWS; row++)
        for (uint32_t t = 0; t <= 4 * STEPS; t++) text[row][t] = 10 * row + t % 3 * (row + 1);
    uint32_t tokens[ROWS * 2 * STEPS], targets[ROWS * 2 * STEPS];
    hq_batch batch = {0};
    batch.struct_size = sizeof batch;
    batch.sequences = ROWS;
    batch.tokens = tokens;
    batch.targets = targets;
    hq_decoder *state = NULL;
    hq_parameters *parameters = NULL;
    hq_optimizer *optimizer = NULL;
    CHECK(hq_decoder_new(model, ROWS, 1024, &state) == HQ_OK);
    CHECK(hq_model_parameters(model, &parameters) == HQ_OK);
    CHECK(hq_optimizer_new(parameters, NULL, &optimizer) == HQ_OK);
    double whole = 0.0, half[3];
    for (int part = 0; part < 4; part++) {
        /* All of it, its first half, its second half with and without what came before. */
        size_t length = part == 0 ? 2 * STEPS : STEPS, first = part >= 2 ? STEPS : 0;
        for (size_t row = 0; row < ROWS; row++)
            for (size_t t = 0; t < length; t++) {
                tokens[row * length + t] = text[row][first + t];
                targets[row * length + t] = text[row][first + t + 1];
            }
        batch.tokens_len = batch.targets_len = ROWS * length;
        double *loss = part == 0 ? &whole : &half[part - 1];
        CHECK(hq_model_step(model, context, &batch, part == 1 || part == 2 ? state : NULL, NULL, loss) == HQ_OK);
    }
    CHECK(fabs(whole - (half[0] + half[1]) / 2.0) < 1e-5 && fabs(half[1] - half[2]) > 1e-4);

    double losses[2] = {0.0, 0.0};
    for (uint64_t step = 0; step < 120; step++) {
        size_t first = step % 3;
        for (size_t row = 0; row < ROWS; row++)
            for (size_t t = 0; t < STEPS; t++) {
                tokens[row * STEPS + t] = text[row][first + t];
                targets[row * STEPS + t] = text[row][first + t + 1];
            }
        batch.tokens_len = batch.targets_len = ROWS * STEPS;
        hq_step_options options = {0};
        options.struct_size = sizeof options;
        options.step = (uint32_t)step;
        hq_training_state training = {0};
        training.struct_size = sizeof training;
        training.step = step;
        training.learning_rate = 0.02f;
        double loss = 0.0;
        CHECK(hq_parameters_zero_gradients(parameters) == HQ_OK);
        CHECK(hq_decoder_truncate(state, 0) == HQ_OK);
        CHECK(hq_model_step(model, context, &batch, state, &options, &loss) == HQ_OK);
        training.loss = (float)loss;
        CHECK(hq_optimizer_step(optimizer, context, parameters, &training, NULL) == HQ_OK);
        CHECK(hq_parameters_quantize(parameters, context, NULL) == HQ_OK);
        if (step == 0) losses[0] = loss;
        losses[1] = loss;
    }
    printf("recurrent: loss %.3f -> %.3f in 120 steps of the program's own\n", losses[0], losses[1]);
    CHECK(losses[1] < 0.3 * losses[0]);
    /* The parameters outlive the model's handle. */
    float *weights = NULL;
    size_t len = 0;
    hq_model_free(model);
    CHECK(hq_parameters_weights(parameters, 0, &weights, &len) == HQ_OK && len > 0 && isfinite(weights[0]));
    hq_optimizer_free(optimizer);
    hq_parameters_free(parameters);
    hq_decoder_free(state);
}

/* ---- Files for others. ---- */

static void files(const hq_context *context) {
    hq_model *model = NULL;
    CHECK(hq_model_new(context,
                       "{\"model_type\": \"llama\", \"vocab_size\": 256, \"hidden_size\": 256, \"intermediate_size\": 512,"
                       " \"num_hidden_layers\": 4, \"num_attention_heads\": 4, \"max_position_embeddings\": 32,"
                       " \"hidden_act\": \"silu\", \"precision\": \"ternary\", \"parameter_sharing\": {\"rules\": [{\"strategy\": \"cross-layer\","
                       " \"interval\": 2}]}}",
                       6, &model) == HQ_OK);
    static char json[1 << 16];
    size_t length = 0;
    CHECK(hq_model_sharing(model, NULL, 0, &length) == HQ_OK && length < sizeof json);
    CHECK(hq_model_sharing(model, json, sizeof json, &length) == HQ_OK && strstr(json, "\"reduction\":0.") != NULL);
    CHECK(hq_model_sharing(model, json, 10, &length) == HQ_SHAPE);
    CHECK(hq_model_save(model, "llama") == HQ_OK);
    hq_model_free(model);

    const struct { uint32_t kind; const char *to, *holds; } exports[] = {
        {HQ_EXPORT_F16, "llama-f16", "F16"},
        {HQ_EXPORT_GGUF_TQ2_0, "llama.gguf", "TQ2_0"},
        {HQ_EXPORT_PACKED_FILE, "llama.packed", "ternary"},
    };
    for (size_t i = 0; i < sizeof exports / sizeof exports[0]; i++) {
        CHECK(hq_export_model(context, "llama", exports[i].to, exports[i].kind) == HQ_OK);
        CHECK(hq_export_model(context, "llama", exports[i].to, exports[i].kind) == HQ_INVALID_VALUE);
        CHECK(hq_inspect(exports[i].to, json, sizeof json, &length) == HQ_OK && strlen(json) == length);
        CHECK(strstr(json, exports[i].holds) != NULL && strstr(json, "\"ratio_to_f32\":") != NULL);
        printf("%s: %s\n", exports[i].to, strstr(json, "\"ratio_to_f32\":"));
        CHECK(hq_model_load(context, exports[i].to, &model) == HQ_OK);
        hq_parameters *parameters = NULL;
        CHECK(hq_model_parameters(model, &parameters) == (i == 0 ? HQ_OK : HQ_UNSUPPORTED));
        hq_parameters_free(parameters);
        hq_model_free(model);
    }
    CHECK(hq_export_model(context, "llama", "other", 10) == HQ_INVALID_VALUE);
    CHECK(hq_inspect("nothing", json, sizeof json, &length) == HQ_IO);
}

int main(void) {
    hq_context *context = NULL;
    CHECK(hq_context_new(NULL, &context) == HQ_OK);
    encoder(context);
    encoder_decoder(context);
    recurrent(context);
    files(context);
    hq_context_free(context);
    puts("all checks passed");
    return 0;
}
