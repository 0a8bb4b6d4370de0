// A memory behind an AXI4 subordinate port, for whole networks: fast, and as slow as told.
//
// Rules
//   1. Bursts are incrementing, of whole beats of R bytes; answers come in the order of addresses.
//   2. `latency`: cycles from an accepted read address to its first beat, and from the last write
//      beat to its response, at least 2. `interval`: at least so many cycles between two beats, in
//      each direction (1: a beat in every cycle).
//   3. `stall`: per cent of the cycles in which each of the five channels pauses, pseudo-random
//      by `seed`.
//   4. Bus addresses in [base, base + bytes) are memory. Everything else is answered with DECERR,
//      and the beat at offset `bad` with SLVERR; nothing is written there, and reads are all ones.
//   5. Data and response are unknown while `rvalid`, `bvalid` are low.
//   6. `violation` rises, with a message, if the manager breaks a rule of AXI4 or writes unknown
//      data.
module memory_model #(
    parameter R = 8,              // bytes of a beat
    parameter BEATS = 1 << 16     // size of the array
) (
    input  wire             clk,
    input  wire             rst,
    input  wire [31:0]      base,
    input  wire [31:0]      bytes,
    input  wire [31:0]      bad,
    input  wire [31:0]      latency,
    input  wire [31:0]      interval,
    input  wire [31:0]      stall,
    input  wire [31:0]      seed,
    output reg              violation,

    input  wire             s_axi_awid,
    input  wire [31:0]      s_axi_awaddr,
    input  wire [7:0]       s_axi_awlen,
    input  wire [2:0]       s_axi_awsize,
    input  wire [1:0]       s_axi_awburst,
    input  wire             s_axi_awvalid,
    output reg              s_axi_awready,
    input  wire [8*R-1:0]   s_axi_wdata,
    input  wire [R-1:0]     s_axi_wstrb,
    input  wire             s_axi_wlast,
    input  wire             s_axi_wvalid,
    output reg              s_axi_wready,
    output reg              s_axi_bid,
    output reg  [1:0]       s_axi_bresp,
    output reg              s_axi_bvalid,
    input  wire             s_axi_bready,
    input  wire             s_axi_arid,
    input  wire [31:0]      s_axi_araddr,
    input  wire [7:0]       s_axi_arlen,
    input  wire [2:0]       s_axi_arsize,
    input  wire [1:0]       s_axi_arburst,
    input  wire             s_axi_arvalid,
    output reg              s_axi_arready,
    output reg              s_axi_rid,
    output reg  [8*R-1:0]   s_axi_rdata,
    output reg  [1:0]       s_axi_rresp,
    output reg              s_axi_rlast,
    output reg              s_axi_rvalid,
    input  wire             s_axi_rready
);
    localparam SHIFT = $clog2(R);
    localparam INDEX = $clog2(BEATS);
    localparam DEPTH = 16;        // bursts on their way, in each direction
    localparam [1:0] OKAY = 2'd0, SLVERR = 2'd2, DECERR = 2'd3;

    reg [8*R-1:0] memory [0:BEATS-1];

    reg [31:0] cycle;

    // One generator for each channel.
    reg [31:0] random_ar, random_r, random_aw, random_w, random_b;
    function [31:0] step(input [31:0] x);
        reg [31:0] y;
        begin
            y = x ^ (x << 13);
            y = y ^ (y >> 17);
            step = y ^ (y << 5);
        end
    endfunction
    function paused(input [31:0] x, input [31:0] percent);
        paused = ({16'd0, x[31:16]} * 32'd100) < {percent[15:0], 16'd0};
    endfunction

    function [1:0] response(input [31:0] offset);
        response = offset >= bytes ? DECERR : offset == bad ? SLVERR : OKAY;
    endfunction

    // Bursts that cross a 4096-byte boundary, or are not whole beats.
    function broken(input [31:0] addr, input [7:0] len, input [2:0] size, input [1:0] burst);
        reg [31:0] last;
        begin
            last = addr + ({24'd0, len} << SHIFT) + R - 1;
            broken = (addr & (R - 1)) != 0 || addr[31:12] != last[31:12] || size != SHIFT ||
                burst != 2'd1;
        end
    endfunction

    // Read: queue of bursts, then beats.
    reg [31:0] ar_offset [0:DEPTH-1];
    reg [7:0]  ar_left [0:DEPTH-1];
    reg [31:0] ar_due [0:DEPTH-1];
    reg        ar_id [0:DEPTH-1];
    reg [4:0]  ar_in, ar_out;                 // one bit more than the index
    reg [31:0] r_offset, r_next;              // of the next beat; its earliest cycle
    reg [7:0]  r_left;
    reg        r_open;                        // r_offset, r_left are valid

    wire       ar_some = ar_in != ar_out;
    wire [4:0] ar_count = ar_in - ar_out;

    // Write: queue of bursts, beats straight into the memory, queue of responses.
    reg [31:0] aw_offset [0:DEPTH-1];
    reg [7:0]  aw_len [0:DEPTH-1];
    reg        aw_id [0:DEPTH-1];
    reg [4:0]  aw_in, aw_out;
    reg [7:0]  w_index;
    reg [31:0] w_next;
    reg [1:0]  w_worst;
    reg [31:0] b_due [0:DEPTH-1];
    reg [1:0]  b_resp [0:DEPTH-1];
    reg        b_id [0:DEPTH-1];
    reg [4:0]  b_in, b_out;

    wire [4:0] aw_count = aw_in - aw_out;
    wire [4:0] b_count = b_in - b_out;
    wire [31:0] w_offset = aw_offset[aw_out[3:0]] + ({24'd0, w_index} << SHIFT);
    wire [1:0]  w_resp = response(w_offset);
    wire        w_fires = s_axi_wvalid && s_axi_wready;
    wire        w_end = w_index == aw_len[aw_out[3:0]];

    // Held from the last cycle, for the rule that an offer stays.
    reg          ar_held, aw_held, w_held;
    reg [39:0]   ar_word, aw_word;
    reg [8*R:0]  w_word;

    reg [31:0] offset;                        // scratch
    reg        take;

    task violated(input [8*40-1:0] text);
        begin
            if (!violation && !rst) $display("memory_model: %0t: %0s", $time, text);
            violation <= 1'b1;
        end
    endtask

    always @(posedge clk) begin
        cycle <= cycle + 1;
        random_ar <= step(random_ar);
        random_r <= step(random_r);
        random_aw <= step(random_aw);
        random_w <= step(random_w);
        random_b <= step(random_b);

        // Read addresses.
        s_axi_arready <= !paused(random_ar, stall) && ar_count < DEPTH - 2;
        if (s_axi_arvalid && s_axi_arready) begin
            ar_offset[ar_in[3:0]] <= s_axi_araddr - base;
            ar_left[ar_in[3:0]] <= s_axi_arlen;
            ar_id[ar_in[3:0]] <= s_axi_arid;
            ar_due[ar_in[3:0]] <= cycle + latency - 1;
            ar_in <= ar_in + 5'd1;
            if (broken(s_axi_araddr, s_axi_arlen, s_axi_arsize, s_axi_arburst))
                violated("read burst not allowed");
        end

        // Read data: a beat where there is none, or where one leaves.
        if (!s_axi_rvalid || s_axi_rready) begin
            s_axi_rvalid <= 1'b0;
            s_axi_rdata <= {8*R{1'bx}};
            s_axi_rresp <= 2'bxx;
            s_axi_rlast <= 1'bx;
            take = 1'b0;
            if (!paused(random_r, stall) && cycle >= r_next) begin
                if (r_open) begin
                    take = 1'b1;
                    offset = r_offset;
                    s_axi_rlast <= r_left == 8'd0;
                    r_open <= r_left != 8'd0;
                    r_left <= r_left - 8'd1;
                end else if (ar_some && cycle >= ar_due[ar_out[3:0]]) begin
                    take = 1'b1;
                    offset = ar_offset[ar_out[3:0]];
                    s_axi_rid <= ar_id[ar_out[3:0]];
                    s_axi_rlast <= ar_left[ar_out[3:0]] == 8'd0;
                    r_open <= ar_left[ar_out[3:0]] != 8'd0;
                    r_left <= ar_left[ar_out[3:0]] - 8'd1;
                    ar_out <= ar_out + 5'd1;
                end
            end
            if (take) begin
                s_axi_rvalid <= 1'b1;
                s_axi_rresp <= response(offset);
                s_axi_rdata <=
                    response(offset) == OKAY ? memory[offset[SHIFT +: INDEX]] : {8*R{1'b1}};
                r_offset <= offset + R;
                r_next <= cycle + interval;
            end
        end

        // Write addresses.
        s_axi_awready <= !paused(random_aw, stall) && aw_count < DEPTH - 2;
        if (s_axi_awvalid && s_axi_awready) begin
            aw_offset[aw_in[3:0]] <= s_axi_awaddr - base;
            aw_len[aw_in[3:0]] <= s_axi_awlen;
            aw_id[aw_in[3:0]] <= s_axi_awid;
            aw_in <= aw_in + 5'd1;
            if (broken(s_axi_awaddr, s_axi_awlen, s_axi_awsize, s_axi_awburst))
                violated("write burst not allowed");
        end

        // Write data. Ready only when an address is known after the beat that may be taken now.
        s_axi_wready <= !paused(random_w, stall) && b_count < DEPTH - 2 && cycle + 1 >= w_next &&
            (w_fires ? interval <= 1 && (!w_end || aw_count > 5'd1) : aw_count != 5'd0);
        if (w_fires) begin
            w_next <= cycle + interval;
            if (s_axi_wlast != w_end) violated("wlast in the wrong place");
            if (!(&s_axi_wstrb)) violated("byte strobes not all set");
            if (^s_axi_wdata === 1'bx) violated("unknown data written");
            if (w_resp == OKAY) memory[w_offset[SHIFT +: INDEX]] <= s_axi_wdata;
            w_worst <= w_resp > w_worst ? w_resp : w_worst;
            w_index <= w_index + 8'd1;
            if (w_end) begin
                w_index <= 8'd0;
                w_worst <= OKAY;
                aw_out <= aw_out + 5'd1;
                b_due[b_in[3:0]] <= cycle + latency - 1;
                b_resp[b_in[3:0]] <= w_resp > w_worst ? w_resp : w_worst;
                b_id[b_in[3:0]] <= aw_id[aw_out[3:0]];
                b_in <= b_in + 5'd1;
            end
        end

        // Write responses.
        if (!s_axi_bvalid || s_axi_bready) begin
            s_axi_bvalid <= 1'b0;
            s_axi_bresp <= 2'bxx;
            if (b_in != b_out && cycle >= b_due[b_out[3:0]] && !paused(random_b, stall)) begin
                s_axi_bvalid <= 1'b1;
                s_axi_bresp <= b_resp[b_out[3:0]];
                s_axi_bid <= b_id[b_out[3:0]];
                b_out <= b_out + 5'd1;
            end
        end

        // Offers stay until they are taken.
        ar_held <= s_axi_arvalid && !s_axi_arready;
        ar_word <= {s_axi_araddr, s_axi_arlen};
        aw_held <= s_axi_awvalid && !s_axi_awready;
        aw_word <= {s_axi_awaddr, s_axi_awlen};
        w_held <= s_axi_wvalid && !s_axi_wready;
        w_word <= {s_axi_wdata, s_axi_wlast};
        if (ar_held && (!s_axi_arvalid || {s_axi_araddr, s_axi_arlen} !== ar_word))
            violated("a read address was withdrawn");
        if (aw_held && (!s_axi_awvalid || {s_axi_awaddr, s_axi_awlen} !== aw_word))
            violated("a write address was withdrawn");
        if (w_held && (!s_axi_wvalid || {s_axi_wdata, s_axi_wlast} !== w_word))
            violated("a write beat was withdrawn");
        if (^{s_axi_arvalid, s_axi_awvalid, s_axi_wvalid, s_axi_rready, s_axi_bready} === 1'bx)
            violated("a handshake signal is unknown");

        if (rst) begin
            violation <= 1'b0;
            cycle <= 32'd0;
            random_ar <= seed * 32'd5 + 32'd1013904223;
            random_r <= seed * 32'd7 + 32'd22695477;
            random_aw <= seed * 32'd11 + 32'd134775813;
            random_w <= seed * 32'd13 + 32'd1103515245;
            random_b <= seed * 32'd17 + 32'd214013;
            {s_axi_arready, s_axi_rvalid, r_open} <= 3'd0;
            {s_axi_awready, s_axi_wready, s_axi_bvalid} <= 3'd0;
            {ar_in, ar_out, aw_in, aw_out, b_in, b_out} <= 30'd0;
            {ar_held, aw_held, w_held} <= 3'd0;
            w_index <= 8'd0;
            w_worst <= OKAY;
            r_next <= 32'd0;
            w_next <= 32'd0;
        end
    end
endmodule
